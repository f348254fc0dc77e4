"""The driver against a real Request Tracker 5 that runs for these tests: its own database, port and settings.

Debian: request-tracker5, rt5-standalone, rt5-db-sqlite. Without them all is skipped, with FIILIS_REAL_RT=required
(`make rt`) it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from services.ticketing.desks import Desk, Failed, Gone, Remarks
from services.ticketing.desks.registry import build
from services.ticketing.domain.story import Items, Paragraph
from shared.directory import model
from shared.http.client import Guard, Outbound
from shared.wire.events import TicketState
from tests.support.desk_calls import draft, erase, remarks_of, updated

SERVER = Path("/usr/share/request-tracker5/libexec/rt-server")
SETUP = Path("/usr/sbin/rt-setup-database-5")
QUEUE = "Customer Experience"

SETTINGS = """
Set($rtname, 'desk.example');
Set($Organization, 'desk.example');
Set($DatabaseType, 'SQLite');
Set($DatabaseName, '%(folder)s/rt.sqlite3');
Set($WebDomain, '127.0.0.1');
Set($WebPort, %(port)d);
Set($MailCommand, 'mbox');
Set($LogToSyslog, undef);
Set($LogToSTDERR, 'warning');
Set($BcryptCost, 4);  # tokens are compared with each call
$RT::VarPath = '%(folder)s';
$RT::MasonDataDir = '%(folder)s/mason';
$RT::MasonSessionDir = '%(folder)s/sessions';
1;
"""

# What an administrator prepares. The account's zone is not that of any clock: times must be right nevertheless.
ADMINISTRATION = """
my $queue = 'Customer Experience';
my @rights = qw(SeeQueue CreateTicket ShowTicket ShowTicketComments ModifyTicket CommentOnTicket SeeCustomField);
our @Users = (
    { Name => 'fiilis', Privileged => 1, Timezone => 'Asia/Kolkata' },
    { Name => 'half', Privileged => 1 },
    { Name => 'aino', Privileged => 1, EmailAddress => 'aino@desk.example' },
);
our @Queues = ({ Name => $queue, CorrespondAddress => 'desk@desk.example', CommentAddress => 'talk@desk.example' });
our @CustomFields = ({
    Name => 'ExternalID', Type => 'FreeformSingle', LookupType => 'RT::Queue-RT::Ticket', ApplyTo => $queue,
});
our @ACL = (
    (map { { Right => $_, Queue => $queue, UserId => 'fiilis' } } @rights, 'ModifyCustomField', 'ShowOutgoingEmail'),
    (map { { Right => $_, Queue => $queue, UserId => 'half' } } @rights),
    (map { { Right => $_, Queue => $queue, UserId => 'aino' } } @rights, qw(OwnTicket ReplyToTicket DeleteTicket)),
    { Right => 'ReplyToTicket', Queue => $queue, GroupDomain => 'RT::Queue-Role', GroupType => 'Requestor' },
);
our @Final = (sub {
    my $made = RT::Queue->new(RT->SystemUser);
    $made->Load($queue);
    $made->AddWatcher(Type => 'AdminCc', Email => 'aino@desk.example');
    for my $name (qw(fiilis half aino)) {
        my $user = RT::User->new(RT->SystemUser);
        $user->Load($name);
        my ($ok, $why, $token) =
            RT::AuthToken->new(RT->SystemUser)->Create(Owner => $user->Id, Description => 'test');
        die $why unless $ok;
        open my $file, '>', "$RT::VarPath/$name.token" or die $!;
        print $file $token;
        close $file;
    }
});
1;
"""


def missing() -> str | None:
    """Return what is not installed."""
    if not (SERVER.exists() and SETUP.exists()):
        return "Request Tracker is not installed (Debian: request-tracker5 rt5-standalone rt5-db-sqlite)"
    perl = [shutil.which("perl") or "perl", "-MDBD::SQLite", "-MPlack", "-e1"]
    if subprocess.run(perl, capture_output=True, check=False).returncode:
        return "Request Tracker lacks SQLite or its server (Debian: rt5-db-sqlite rt5-standalone)"
    return None


@dataclass(frozen=True)
class RealRT:
    """A running Request Tracker."""

    url: str
    tokens: dict[str, str]

    def driver(self, outbound: Outbound, account: str = "fiilis", **more: Any) -> Desk:
        settings = model.Desk(**{"type": "rt", "url": self.url, "token_env": account, "group": QUEUE, **more})
        return build("main", settings, outbound, _no_wait, self.tokens)

    async def by(self, account: str, outbound: Outbound, method: str, path: str, body: Any = None) -> Any:
        """Do something by hand."""
        headers = {"authorization": f"token {self.tokens[account]}", "content-type": "application/json"}
        content = b"" if body is None else json.dumps(body).encode()
        url = f"{self.url}/REST/2.0{path}"
        answer = await outbound.request(method, url, content, headers, seconds=20, limit=1_000_000)
        assert 200 <= answer.status < 300, answer
        return json.loads(answer.body) if answer.body else None


async def _no_wait() -> None:
    return


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRT]:
    """A Request Tracker of these tests' own."""
    why = missing()
    if why is not None:
        (pytest.fail if os.environ.get("FIILIS_REAL_RT") == "required" else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("rt")
    for name in ("mason", "sessions", "settings"):
        (folder / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings, data = folder / "RT_SiteConfig.pm", folder / "administration.pl"
    settings.write_text(SETTINGS % {"folder": folder, "port": port})
    data.write_text(ADMINISTRATION)
    # The second keeps Debian's own settings out, which name the machine's database.
    environment = {**os.environ, "RT_SITE_CONFIG": str(settings), "RT_SITE_CONFIG_DIR": str(folder / "settings")}

    def prepare(*arguments: str) -> None:
        done = subprocess.run(
            [str(SETUP), "--force", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (folder / "rt.sqlite3").exists(), done.stdout

    prepare("--action", "init")
    prepare("--action", "insert", "--datafile", str(data))
    tokens = {name: (folder / f"{name}.token").read_text() for name in ("fiilis", "half", "aino")}
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(SERVER), "--server", "Standalone", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,  # away from Ctrl-C, upon which it would change owners in /var when run by root
        )
    try:
        _wait_for(port, server, log)
        yield RealRT(f"http://127.0.0.1:{port}", tokens)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"Request Tracker did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(Guard("true"))
    yield made
    await made.close()


async def test_a_ticket_from_its_creation_to_its_end(rt: RealRT, outbound: Outbound) -> None:
    """Created once, found by our id, told of changes, read back, and shown among what changed."""
    desk, told = rt.driver(outbound, requester="care@example.test"), draft()
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert await desk.find(told.ticket) == []
    made = await desk.create(told)
    assert made.state == "open"
    (found,) = await desk.find(told.ticket)
    assert found == await desk.read(made.reference)
    assert replace(found, changed_at=None) == made
    assert made.url == f"{rt.url}/Ticket/Display.html?id={made.reference}"
    raw = await rt.by("aino", outbound, "GET", f"/ticket/{made.reference}")
    assert (raw["Subject"], raw["Priority"], raw["Status"]) == (told.title, "75", "new")
    assert [one["id"] for one in raw["Requestor"]] == ["care@example.test"]

    await rt.by("aino", outbound, "PUT", f"/ticket/{made.reference}", {"Owner": "aino"})
    worse = replace(told, severity="critical", title="NPS of Acme fell to -50")
    await updated(desk, made.reference, worse, "in_progress", "A second answer came.\nIt is worse.")
    raw = await rt.by("aino", outbound, "GET", f"/ticket/{made.reference}")
    assert (raw["Subject"], raw["Priority"], raw["Status"]) == (worse.title, "100", "open")
    read = await desk.read(made.reference)
    assert (read.state, read.assignee) == ("in_progress", "aino@desk.example")
    assert read.changed_at is not None
    assert abs(datetime.now(UTC) - read.changed_at) < timedelta(seconds=10)
    (found,) = await desk.find(told.ticket)
    assert found.assignee == read.assignee

    other = await desk.create(draft())
    changed = [one.reference for one in await desk.changed(before)]
    assert changed.index(made.reference) < changed.index(other.reference), "the longest unchanged first"

    await updated(desk, made.reference, worse, "resolved", None)
    assert (await desk.read(made.reference)).state == "resolved"
    await updated(desk, made.reference, worse, "cancelled", None)
    assert (await desk.read(made.reference)).state == "resolved", "it is over"


READS_BACK: dict[TicketState, TicketState] = {"acknowledged": "in_progress", "closed": "resolved"}


async def test_each_state_and_back(rt: RealRT, outbound: Outbound) -> None:
    """A move is repeatable, reads back as the nearest state, and can be undone."""
    desk, told = rt.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    states: tuple[TicketState, ...] = ("acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled")
    for wanted in states:
        for _ in range(2):
            await updated(desk, reference, told, wanted, None)
            assert (await desk.read(reference)).state == READS_BACK.get(wanted, wanted)
        await updated(desk, reference, told, "open", None)
        assert (await desk.read(reference)).state == "open"
    wrong = rt.driver(outbound, options={"waiting": "nonsense"})
    with pytest.raises(Failed, match="isn't a valid status") as failed:
        await updated(wrong, reference, told, "waiting", None)
    assert failed.value.kind == "permanent"


async def test_severities(rt: RealRT, outbound: Outbound) -> None:
    desk, told = rt.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    for severity, priority in (("info", "0"), ("low", "25"), ("medium", "50"), ("high", "75"), ("critical", "100")):
        await updated(desk, reference, replace(told, severity=severity), None, None)
        assert (await rt.by("aino", outbound, "GET", f"/ticket/{reference}"))["Priority"] == priority


@pytest.mark.parametrize(
    "text",
    [
        "He said: \"it's 'done'\" \\ <b>bold</b> &amp; </p><script>alert(1)</script>",
        "Mäkinen, Ståhl & Öhman — 100 % tyytymätön 😡 漢字",
        'x" OR labels = "fiilis" ^ORstate=1 CF.{ExternalID} = \'y\' {code}',
        "t" * 200,
        "One\nline\n  and\tanother",
    ],
)
async def test_any_text_survives(rt: RealRT, outbound: Outbound, text: str) -> None:
    """Whatever people write arrives as they wrote it; of titles, on one line."""
    desk = rt.driver(outbound)
    told = draft(title=text, story=(Paragraph(text), Items((text,))), resolution=text)
    reference = (await desk.create(told)).reference
    raw = await rt.by("aino", outbound, "GET", f"/ticket/{reference}")
    assert raw["Subject"] == " ".join(text.split())
    await updated(desk, reference, told, "resolved", text)
    assert [one.text for one in await remarks_of(desk, reference)] == [text]
    assert [one.reference for one in await desk.find(told.ticket)] == [reference]


async def test_a_long_title(rt: RealRT, outbound: Outbound) -> None:
    """Visibly cut where RT would cut it, so that telling it again changes nothing."""
    desk, told = rt.driver(outbound), draft(title="ä" * 150)
    reference = (await desk.create(told)).reference
    assert (await rt.by("aino", outbound, "GET", f"/ticket/{reference}"))["Subject"] == "ä" * 98 + "…"
    history = await rt.by("aino", outbound, "GET", f"/ticket/{reference}/history")
    await updated(desk, reference, told, None, None)
    assert await rt.by("aino", outbound, "GET", f"/ticket/{reference}/history") == history


MAIL = """From: jane@acme.example
To: desk@desk.example
Subject: Re: [desk.example #{reference}] NPS of Acme fell to -12
Message-ID: <{reference}@acme.example>
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="parts"

--parts
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Still broken, Mäkinen.

--parts
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<p>Still broken, Mäkinen.</p>

--parts--
"""


def _plain(text: str) -> dict[str, str]:
    return {"Content": text, "ContentType": "text/plain"}


async def test_what_people_say(rt: RealRT, outbound: Outbound) -> None:
    """Comments, answers and mails, each once; neither our story nor the mails that RT sends."""
    desk, told = rt.driver(outbound, requester="jane@acme.example"), draft()
    before = datetime.now(UTC) - timedelta(seconds=2)
    reference = (await desk.create(told)).reference
    await updated(desk, reference, told, None, "a remark of ours")
    for form, text in (("text/plain", "On it.\nÄ & <b>"), ("text/html", "<p>Ä &amp; &lt;b&gt;</p>")):
        body = {"Content": text, "ContentType": form}
        await rt.by("aino", outbound, "POST", f"/ticket/{reference}/comment", body)
    mail = {"SessionType": "REST", "queue": QUEUE, "action": "correspond", "message": MAIL.format(reference=reference)}
    form = {"content-type": "application/x-www-form-urlencoded"}
    url = f"{rt.url}/REST/1.0/NoAuth/mail-gateway"
    answer = await outbound.request("POST", url, urlencode(mail).encode(), form, seconds=20)
    assert answer.body.startswith(b"ok"), answer
    said = await remarks_of(desk, reference)
    assert [(one.author, one.text, one.own) for one in said] == [
        ("fiilis", "a remark of ours", True),
        ("aino@desk.example", "On it.\nÄ & <b>", False),
        ("aino@desk.example", "Ä & <b>", False),
        ("jane@acme.example", "Still broken, Mäkinen.", False),
    ]
    assert len({one.id for one in said}) == 4
    assert all(before < one.at < datetime.now(UTC) + timedelta(seconds=1) for one in said)
    kinds = await rt.by("fiilis", outbound, "GET", f"/ticket/{reference}/history?fields=Type&per_page=100")
    assert {"EmailRecord", "CommentEmailRecord"} <= {one["Type"] for one in kinds["items"]}, "there were mails"


async def test_the_requestor_reads_nothing_of_the_story(rt: RealRT, outbound: Outbound) -> None:
    """RT's own scrips mail the first text to the requestor: the story is a comment."""
    desk, told = rt.driver(outbound, requester="jane@acme.example"), draft()
    reference = (await desk.create(told)).reference
    await desk.tell(reference, told, told.story)
    await desk.tell(reference, told, (Paragraph("A further answer: <3"),))
    query = "fields=Content,TransactionId&per_page=100"
    texts = await rt.by("aino", outbound, "GET", f"/ticket/{reference}/attachments?{query}")
    history = await rt.by("aino", outbound, "GET", f"/ticket/{reference}/history?fields=Type&per_page=100")
    kinds = {str(one["id"]): one["Type"] for one in history["items"]}
    said = {(kinds[str(one["TransactionId"])], "NPS fell" in one["Content"]) for one in texts["items"]}
    assert ("Create", False) in said
    assert ("Comment", True) in said
    assert ("EmailRecord", True) not in said
    assert await remarks_of(desk, reference) == []


async def test_many_remarks_are_read_in_pieces(rt: RealRT, outbound: Outbound) -> None:
    """From where the last reading ended; a pasted log of five megabytes hides no other."""
    desk, told = rt.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    for number in range(30):
        await rt.by("aino", outbound, "POST", f"/ticket/{reference}/comment", _plain(f"number {number}"))
    await rt.by("aino", outbound, "POST", f"/ticket/{reference}/comment", _plain("log " * 1_250_000))
    await rt.by("aino", outbound, "POST", f"/ticket/{reference}/comment", _plain("the last"))
    said: list[str] = []
    upto, more = None, True
    while more:
        read = await desk.remarks(reference, upto)
        said += [one.text for one in read.items]
        upto, more = read.upto, read.more
    assert said[:30] == [f"number {number}" for number in range(30)]
    assert len(said) == 32
    assert said[-1] == "the last"
    assert await desk.remarks(reference, upto) == Remarks((), upto)


async def test_a_ticket_that_was_merged_answers_as_another(rt: RealRT, outbound: Outbound) -> None:
    """Its own reference shows which one it is now."""
    desk = rt.driver(outbound)
    ours, other = [(await desk.create(draft())).reference for _ in range(2)]
    await rt.by("aino", outbound, "PUT", f"/ticket/{ours}", {"MergeInto": other})
    assert (await desk.read(ours)).reference == other


async def test_a_person_is_erased(rt: RealRT, outbound: Outbound) -> None:
    """The title and the story are told anew, once; what stays is said."""
    desk, told = rt.driver(outbound), draft(title="Jane Doe is unhappy", story=(Paragraph("Jane Doe: never again"),))
    reference = (await desk.create(told)).reference
    erased = replace(told, title="Somebody is unhappy", story=(Paragraph("(erased)"),))
    for _ in range(2):
        assert "rt-munge-attachments" in await erase(desk, reference, erased)
    raw = await rt.by("aino", outbound, "GET", f"/ticket/{reference}")
    assert raw["Subject"] == "Somebody is unhappy"
    texts = await rt.by("aino", outbound, "GET", f"/ticket/{reference}/attachments?fields=Content&per_page=100")
    assert any("(erased)" in one["Content"] for one in texts["items"])


async def test_a_ticket_deleted_by_hand(rt: RealRT, outbound: Outbound) -> None:
    """It is gone, as is one that never was, whatever RT would say of others."""
    desk, told = rt.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    await updated(desk, reference, told, None, "a remark")
    await rt.by("aino", outbound, "DELETE", f"/ticket/{reference}")
    assert await desk.find(told.ticket) == []
    assert reference not in {one.reference for one in await desk.changed(datetime.now(UTC))}
    for call in (desk.read(reference), updated(desk, reference, told, "resolved", None)):
        with pytest.raises(Gone):
            await call
    for call in (desk.read("4711"), remarks_of(desk, "4711"), updated(desk, "4711", told, None, "hello")):
        with pytest.raises(Gone):
            await call


async def test_what_the_account_may_not_do(rt: RealRT, outbound: Outbound) -> None:
    """A wrong token, queue or field, or a right that lacks, is for a person to mend, and no error says the token."""
    told = draft()
    wrong = rt.tokens["fiilis"][:-1] + ("0" if rt.tokens["fiilis"][-1] != "0" else "1")
    stranger = replace(rt, tokens={"fiilis": wrong}).driver(outbound)
    calls = {
        "401": (stranger.create(told), stranger.find(told.ticket), stranger.changed(datetime.now(UTC))),
        "403": (rt.driver(outbound, group="Nobody's").create(told),),
        "no custom field": (rt.driver(outbound, options={"field": "Other"}).create(told),),
        "ModifyCustomField": (rt.driver(outbound, "half").create(told),),
    }
    for why, several in calls.items():
        for call in several:
            with pytest.raises(Failed, match=why) as failed:
                await call
            assert failed.value.kind == "permanent"
            assert wrong not in failed.value.detail
    assert await rt.driver(outbound).find(told.ticket) == []
    query = urlencode({"query": f"Queue = '{QUEUE}' AND Creator = 'half'", "fields": "Status"})
    made = await rt.by("aino", outbound, "GET", f"/tickets?{query}")
    assert [one["Status"] for one in made["items"]] == ["rejected"], "what nobody would find again is not left open"


async def test_many_at_once(rt: RealRT, outbound: Outbound) -> None:
    """Each finds its own."""
    desk = rt.driver(outbound)
    several = [draft() for _ in range(4)]
    made = await asyncio.gather(*(desk.create(one) for one in several))
    for told, remote in zip(several, made, strict=True):
        assert [one.reference for one in await desk.find(told.ticket)] == [remote.reference]
