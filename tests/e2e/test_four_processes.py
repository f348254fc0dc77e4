"""Four processes as a deployment runs them, set up by the commands that a person types."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml

from demo.inbox import Inbox
from services.__main__ import main
from shared.bus.client import Kafka
from shared.directory.follower import read_newest
from shared.wire.signing import ExpiredToken, Signer
from tests.support.phone import Phone
from tests.support.processes import Done, command, processes
from tests.support.services import NAMES
from tests.support.wait import until

DIRECTORY = """\
company: {{name: Example Oy, timezone: Europe/Helsinki, language: fi}}
touchpoints: [support, billing]
people:
  architect-1: {{name: First Architect, contacts: [{{email: architect-1@example.test}}]}}
  architect-2: {{name: Second Architect, contacts: [{{webhook: "{hook}"}}]}}
  duty-manager: {{name: Duty Manager, contacts: [{{email: duty@example.test}}]}}
escalations:
  standard: {{steps: [{{page: architect, ack_within: 5m}}], catch_all: duty-manager}}
customers:
  acme: {{name: Acme Oy, architect: architect-1}}
  borealis: {{name: Borealis Oy, architect: architect-2}}
channels:
  smtp: {{host: 127.0.0.1, port: {smtp}, tls: none, sender: fiilis@example.test}}
keys:
{keys}
"""


Typed = Callable[..., Done]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Typed:
    """Run `python -m services ARGUMENTS` in this process, which is enough where nothing is started."""

    def run(*arguments: str, **variables: str) -> Done:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["services", *arguments])
            patched.chdir(tmp_path)  # not where a demo has left its servers' data
            for name, value in variables.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def settings(kafka: Kafka, database_url: str) -> dict[str, str]:
    return {
        "FIILIS_KAFKA": kafka.bootstrap,
        "FIILIS_TOPIC_PREFIX": kafka.prefix,
        "FIILIS_DATABASE_URL": database_url,
        "FIILIS_SECRET": "a-secret-of-a-test-with-32-characters",
        "FIILIS_ALLOW_PRIVATE_TARGETS": "true",
    }


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    made = Inbox(0, 0)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def phone() -> AsyncIterator[Phone]:
    made = await Phone().start()
    yield made
    await made.close()


async def test_from_nothing_to_an_answered_page(
    settings: dict[str, str], inbox: Inbox, phone: Phone, tmp_path: Path
) -> None:
    """Keys, directory, four processes; then one click of an unhappy customer reaches a person, who answers by mail."""
    made = await command("keys", "new", "--kind", "secret", "--scope", "feedback", "--scope", "tickets")
    key, entry = made.out.splitlines()
    file = tmp_path / "directory.yaml"
    file.write_text(DIRECTORY.format(hook=phone.url("/hook"), smtp=inbox.smtp_port, keys=entry))
    applied = await command("apply", str(file), **settings)
    assert applied.code == 0, applied.err
    secret = await command("webhook-secret", phone.url("/hook"), FIILIS_SECRET=settings["FIILIS_SECRET"])
    async with (
        processes(settings, tmp_path, *NAMES) as running,
        httpx.AsyncClient(timeout=10, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client,
    ):
        address = {name: process.address for name, process in running.items()}
        for customer in ("acme", "borealis"):
            said = {
                "kind": "mood",
                "score": 1,
                "customer": customer,
                "touchpoint": "support",
                "comment": "Nobody called.",
            }
            response = await client.post(f"{address['ingest']}/v1/feedback", json=said)
            assert response.status_code == 202, response.text

        async def paged() -> bool:
            return bool(inbox.messages) and bool(phone.received)

        await until(paged)
        (mail,) = inbox.messages
        assert mail.to == "architect-1@example.test"
        (link,) = mail.links
        assert link.startswith(f"{address['notify']}/a/"), "the link leads to the process that answers it"
        phone.received[0].verify(secret.out.strip())
        assert "I take it" in (await client.get(link)).text
        assert "Taken" in (await client.post(link)).text

        async def acknowledged() -> list[dict[str, Any]]:
            response = await client.get(f"{address['ticketing']}/v1/tickets?state=acknowledged")
            return response.json()["items"]

        (ticket,) = await until(acknowledged)
        assert (ticket["customer"], ticket["assignee"]) == ("acme", "architect-1")
        for name in NAMES:
            assert (await client.get(f"{address[name]}/readyz")).status_code == 200
            elsewhere = "/v1/tickets" if name != "ticketing" else "/v1/customers"
            assert (await client.get(address[name] + elsewhere)).status_code == 404, "each has its own addresses only"
        for process in running.values():
            assert "ERROR" not in process.log(), process.log()
            assert key not in process.log()
            assert link.rpartition("/")[2] not in process.log()


# ---- keys


KEPT = "a-secret-that-was-kept-of-32-characters"
LINK = ("link", "--customer", "acme", "--respondent", "r-17")


def test_a_link(typed: Typed, tmp_path: Path) -> None:
    """It needs a secret: of the environment, or the one that everything in one process keeps."""
    options = (*LINK, "--touchpoint", "support", "--data", str(tmp_path))
    refused = typed(*options)
    assert (refused.code, refused.out) == (2, "")
    assert "FIILIS_SECRET is not set" in refused.err
    (tmp_path / "secret").write_text(KEPT)
    made = typed(*options, "--expires", "2d", FIILIS_PUBLIC_URL="https://voice.example.test/")
    assert made.code == 0, made.err
    start, _, token = made.out.strip().rpartition("/")
    assert start == "https://voice.example.test/s"
    facts = Signer([KEPT]).verify("survey", token, now=datetime.now(UTC) + timedelta(hours=47))
    assert (facts["customer"], facts["respondent"], facts["touchpoint"]) == ("acme", "r-17", "support")
    with pytest.raises(ExpiredToken):
        _ = Signer([KEPT]).verify("survey", token, now=datetime.now(UTC) + timedelta(hours=49))
    assert typed(*options).out.startswith("http://127.0.0.1:8080/s/")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--customer", "Acme Oy"), "--customer: 'Acme Oy' is not a slug"),
        (("--touchpoint", "Support!"), "--touchpoint: 'Support!' is not a slug"),
        (("--respondent", ""), "--respondent: must have 1 to 200 characters"),
        (("--respondent", "r" * 201), "--respondent: must have 1 to 200 characters"),
        (("--expires", "soon"), "--expires: must be a duration such as 90s, 15m, 12h or 30d"),
    ],
)
def test_a_link_that_cannot_be(typed: Typed, wrong: tuple[str, ...], named: str) -> None:
    done = typed(*LINK, *wrong, FIILIS_SECRET=KEPT)
    assert (done.code, done.out) == (2, "")
    assert named in done.err


def test_new_keys(typed: Typed) -> None:
    """A key is printed once; beside it what the directory needs, which holds only its hash."""
    secret = typed("keys", "new", "--kind", "secret", "--scope", "scores", "--scope", "tickets")
    public = typed("keys", "new", "--kind", "publishable", "--customer", "acme")
    named = typed("keys", "new", "--kind", "secret", "--scope", "admin", "--id", "ops", "--customer", "acme")
    for done, prefix in ((secret, "sk_"), (public, "pk_"), (named, "sk_")):
        assert done.code == 0, done.err
        key, entry = done.out.splitlines()
        assert key.startswith(prefix)
        assert len(key) > 40
        assert key not in entry + done.err
        (of_key,) = yaml.safe_load(entry)
        assert of_key["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    (of_secret,), (of_public,), (of_named,) = (yaml.safe_load(d.out.splitlines()[1]) for d in (secret, public, named))
    assert of_secret["scopes"] == ["scores", "tickets"]
    assert (of_public["kind"], of_public["customer"]) == ("publishable", "acme")
    assert (of_named["id"], of_named["customer"]) == ("ops", "acme")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--kind", "secret", "--scope", "everything"), "everything"),
        (("--kind", "secret"), "--scope"),
        (("--kind", "publishable"), "--customer"),
        (("--kind", "publishable", "--customer", "acme", "--scope", "admin"), "--scope"),
        (("--kind", "publishable", "--customer", "Acme Oy"), "Acme Oy"),
        (
            (
                "--kind",
                "master",
            ),
            "kind",
        ),
        ((), "kind"),
    ],
    ids=str,
)
def test_a_key_that_cannot_be(typed: Typed, arguments: tuple[str, ...], named: str) -> None:
    done = typed("keys", "new", *arguments)
    assert done.code == 2
    assert named in done.err
    assert done.out == ""


# ---- the directory

GOOD = DIRECTORY.format(hook="https://hooks.example.test/page", smtp=25, keys="  []")
BAD = GOOD.replace("architect: architect-1}", "architect: nobody}").replace("tls: none", "tls: some, typo: 1")


def test_checking_a_directory(typed: Typed, tmp_path: Path) -> None:
    """Good is 0; bad is 2, and each line says where: an editor jumps there."""
    good, bad, broken = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "broken"))
    good.write_text(GOOD)
    bad.write_text(BAD)
    broken.write_text("company: {name: [")
    missing = tmp_path / "missing.yaml"
    done = [typed("check", str(file)) for file in (good, bad, broken, missing)]
    assert (done[0].code, done[0].err) == (0, "")
    assert "2 customers" in done[0].out
    assert [one.code for one in done[1:]] == [2, 2, 2]
    assert all(one.out == "" for one in done[1:])
    found = [re.fullmatch(r"(.+?):(\d+): ([^:]+): (.+)", line) for line in done[1].err.splitlines()]
    places = {match[3]: int(match[2]) for match in found if match and match[1] == str(bad)}
    lines = BAD.splitlines()
    assert places["customers.acme.architect"] == 1 + next(n for n, line in enumerate(lines) if "nobody" in line)
    assert places["channels.smtp.typo"] == 1 + next(n for n, line in enumerate(lines) if "typo" in line)
    assert re.search(rf"^{re.escape(str(broken))}:\d+: ", done[2].err)
    assert str(missing) in done[3].err
    assert not any("Traceback" in one.err for one in done)


async def test_applying_a_directory(kafka: Kafka, settings: dict[str, str], tmp_path: Path) -> None:
    """What changes is shown before it is so; a bad one changes nothing; the same again changes nothing."""
    file = tmp_path / "directory.yaml"
    file.write_text(GOOD)
    dry = await command("apply", str(file), "--dry-run", **settings)
    assert dry.code == 0, dry.err
    assert "customers: 2" in dry.out
    assert await read_newest(kafka) is None, "a dry run publishes nothing"

    first = await command("apply", str(file), **settings)
    assert first.code == 0
    assert "revision 1 published" in first.out
    again = await command("apply", str(file), **settings)
    assert again.code == 0
    assert "nothing to change" in again.out
    assert "revision 1" in again.out

    file.write_text(BAD)
    bad = await command("apply", str(file), **settings)
    assert bad.code == 2
    assert "customers.acme.architect" in bad.err

    file.write_text(GOOD.replace("architect: architect-1", "architect: architect-2"))
    changed = await command("apply", str(file), **settings)
    assert changed.code == 0
    assert "architect-1" in changed.out
    assert "architect-2" in changed.out
    assert "revision 2 published" in changed.out
    file.write_text(GOOD)
    dry = await command("apply", str(file), "--dry-run", **settings)
    assert "on call now" in dry.out
    assert "customer acme: architect-2" in dry.out, "who it is, and who it would be"
    newest = await read_newest(kafka)
    assert newest is not None
    assert (newest.number, newest.directory.customers["acme"].architect) == (2, "architect-2")


# ---- the database


async def test_migrating(empty_database_url: str) -> None:
    """By hand, before new processes start; twice is harmless, at once too."""
    done = await asyncio.gather(*(command("migrate", FIILIS_DATABASE_URL=empty_database_url) for _ in range(2)))
    assert [one.code for one in done] == [0, 0], done
    applied = [line.partition(" (")[0] for one in done for line in one.out.splitlines() if line.startswith("applied ")]
    assert applied
    assert len(applied) == len(set(applied))
    again = await command("migrate", FIILIS_DATABASE_URL=empty_database_url)
    assert (again.code, "applied" in again.out) == (0, False)
    connection = await asyncpg.connect(empty_database_url.replace("+asyncpg", ""))
    try:
        for table in ("scoring.answer", "ticketing.ticket", "notify.page"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await connection.close()


# ---- settings that are missing or wrong


async def _wrong(named: str, *arguments: str, **variables: str) -> None:
    done = await command(*arguments, **variables)
    assert done.code == 2, f"{arguments} {variables}: {done}"
    assert named in done.err, done.err
    assert "Traceback" not in done.err
    assert "ready" not in done.out


async def test_a_setting_that_is_missing_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    """Exit code 2, and one line that says which."""
    file = tmp_path / "directory.yaml"
    file.write_text(GOOD)

    def without(name: str) -> dict[str, str]:
        return {known: value for known, value in settings.items() if known != name}

    await asyncio.gather(
        *(_wrong("FIILIS_KAFKA", name, "--port", "0", **without("FIILIS_KAFKA")) for name in ("ingest", "notify")),
        _wrong("FIILIS_DATABASE_URL", "scoring", "--port", "0", **without("FIILIS_DATABASE_URL")),
        _wrong("FIILIS_SECRET", "notify", "--port", "0", **without("FIILIS_SECRET")),
    )
    await asyncio.gather(
        _wrong("FIILIS_KAFKA", "apply", str(file)),
        _wrong("FIILIS_DATABASE_URL", "migrate"),
        _wrong("FIILIS_SECRET", "webhook-secret", "https://hooks.example.test/page"),
    )
    await asyncio.gather(
        _wrong("FIILIS_SECRET", "webhook-secret", "https://hooks.example.test/page", FIILIS_SECRET="a" * 31),
        _wrong("FIILIS_SECRET", "scoring", "--port", "0", **{**settings, "FIILIS_SECRET": f"{KEPT},short"}),
    )


async def test_a_setting_that_is_wrong_is_named(settings: dict[str, str]) -> None:
    """One line that says which, and nothing is started."""
    wrong = {
        "FIILIS_PORT": "abc",
        "FIILIS_LOG_LEVEL": "loud",
        "FIILIS_DATABASE_URL": "mysql://fiilis@db/fiilis",
        "FIILIS_ALLOW_PRIVATE_TARGETS": "10.0.0.0/99",
    }
    await asyncio.gather(*(_wrong(name, "notify", **{**settings, name: value}) for name, value in wrong.items()))


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        ("ingest", "FIILIS_INGEST_WAIT_SECONDS", "soon"),
        ("scoring", "FIILIS_SCORING_BATCH", "0"),
        ("ticketing", "FIILIS_REOPEN_WITHIN_DAYS", "-1"),
        ("notify", "FIILIS_NOTIFY_CALLS", "none"),
    ],
)
async def test_a_services_own_setting_that_is_wrong_is_named(
    settings: dict[str, str], service: str, name: str, value: str
) -> None:
    """As the settings of all."""
    await _wrong(name, service, "--port", "0", **{**settings, name: value})


async def test_a_port_that_is_taken(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        await asyncio.gather(
            _wrong(f"127.0.0.1:{port}", "ingest", "--port", port, **settings),
            _wrong("FIILIS_PORT", "notify", **settings, FIILIS_PORT=port),
        )


@pytest.mark.parametrize(
    "arguments",
    [("--simulate", "5/x"), ("--simulate", "0/s"), ("--port", "abc"), ("ingest", "--port", "abc"), ("sing",)],
)
def test_options_that_are_wrong(typed: Typed, arguments: tuple[str, ...]) -> None:
    """Before anything is started."""
    done = typed(*arguments)
    assert (done.code, done.out) == (2, "")
    assert arguments[-2 if len(arguments) > 1 else 0] in done.err
