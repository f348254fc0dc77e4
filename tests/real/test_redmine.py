"""The driver against a real Redmine that runs for these tests: its own copy, database and port.

Debian: redmine, redmine-sqlite. Without them all is skipped, with FIILIS_REAL_REDMINE=required (`make redmine`) it
fails.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.ticketing.desks import Desk, Failed, Gone
from services.ticketing.desks.registry import build
from services.ticketing.domain.story import Items, Paragraph
from shared.directory import model
from shared.http.client import Guard, Outbound
from shared.wire.events import TicketState
from tests.support.desk_calls import draft, erase, remarks_of, updated

INSTALLED = Path("/usr/share/redmine")
LOCK = Path("/var/lib/redmine/Gemfile.lock")
DATABASE = """production:
  adapter: sqlite3
  database: {folder}/redmine.sqlite3
  encoding: utf8
"""
# What an administrator prepares. A developer may not close what is new, nor reopen what is closed.
ADMINISTRATION = """
Setting.rest_api_enabled = '1'
Setting.login_required = '1'
role = Role.find_by(name: 'Developer')
role.add_permission!(:add_issues, :edit_issues, :view_private_notes, :set_notes_private)
manager = Role.find_by(name: 'Manager')
trackers = Tracker.pluck(:id)
IssueCustomField.create!(name: 'ExternalID', field_format: 'string', is_for_all: true, is_filter: true,
                         tracker_ids: trackers, visible: true)
project = Project.create!(name: 'Customer Experience', identifier: 'cx', tracker_ids: trackers)
{ 'fiilis' => manager, 'limited' => role, 'aino' => manager }.each do |name, has|
  user = User.new(firstname: name.capitalize, lastname: 'Desk', mail: "#{name}@desk.example", language: 'en')
  user.login = name
  user.password = user.password_confirmation = ENV['TRIAL_PASSWORD']
  user.save!
  Member.create!(project: project, user_id: user.id, role_ids: [has.id])
  puts "#{name} #{user.api_key}"
end
Issue.create!(project: project, tracker: Tracker.first, subject: 'Older', author: User.find_by(login: 'aino'),
              priority: IssuePriority.first, status: IssueStatus.first)
"""


def missing() -> str | None:
    """Return what is not installed."""
    if not (INSTALLED.exists() and LOCK.exists() and shutil.which("ruby")):
        return "Redmine is not installed (Debian: redmine redmine-sqlite)"
    return None


@dataclass(frozen=True)
class RealRedmine:
    """A running Redmine."""

    url: str
    keys: dict[str, str]

    def driver(self, outbound: Outbound, account: str = "fiilis", **more: Any) -> Desk:
        settings = model.Desk(**{"type": "redmine", "url": self.url, "token_env": account, "group": "cx", **more})
        return build("main", settings, outbound, _no_wait, self.keys)

    async def by(self, account: str, outbound: Outbound, method: str, path: str, body: Any = None) -> Any:
        """Call its interface as somebody."""
        headers = {"x-redmine-api-key": self.keys[account], "content-type": "application/json"}
        content = b"" if body is None else msgspec.json.encode(body)
        answer = await outbound.request(method, f"{self.url}{path}", content, headers, seconds=30, limit=10_000_000)
        assert answer.status < 300, answer
        return msgspec.json.decode(answer.body) if answer.body else None


async def _no_wait() -> None:
    """Wait for nothing."""


@pytest.fixture(scope="module")
def redmine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedmine]:
    lacks = missing()
    if lacks is not None:
        if os.environ.get("FIILIS_REAL_REDMINE") == "required":
            pytest.fail(lacks)
        pytest.skip(lacks)
    folder = tmp_path_factory.mktemp("redmine")
    app, site = folder / "app", folder / "app" / "instances" / "default"
    shutil.copytree(INSTALLED, app, symlinks=True, ignore=shutil.ignore_patterns("instances", "Gemfile.lock"))
    shutil.copy(LOCK, app / "Gemfile.lock")
    with (app / "Gemfile").open("a") as gems:
        gems.write('\ngem "webrick"\n')
    for name in ("config", "tmp", "log", "files", "public"):
        (site / name).mkdir(parents=True)
    (site / "config" / "database.yml").write_text(DATABASE.format(folder=folder))
    (site / "config" / "secret_key.txt").write_text(secrets.token_hex(64))
    prepared = folder / "administration.rb"
    prepared.write_text(ADMINISTRATION)
    environ = {**os.environ, "RAILS_ENV": "production", "REDMINE_LANG": "en", "TRIAL_PASSWORD": secrets.token_hex(16)}

    def run(*command: str) -> str:
        done = subprocess.run(["ruby", *command], cwd=app, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    run("bin/rake", "db:migrate")
    run("bin/rake", "redmine:load_default_data")
    keys = dict(line.split() for line in run("bin/rails", "runner", str(prepared)).splitlines() if line.count(" ") == 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["ruby", "bin/rails", "server", "-u", "webrick", "-b", "127.0.0.1", "-p", str(port)]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(command, cwd=app, env=environ, stdout=log, stderr=log)
    try:
        _wait_for(port, server)
        yield RealRedmine(f"http://127.0.0.1:{port}", keys)
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("Redmine did not start")


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(Guard("true"))
    yield made
    await made.close()


async def test_a_ticket_from_its_creation_to_its_end(redmine: RealRedmine, outbound: Outbound) -> None:
    """Created once, found by our id, told of changes, read back, shown among what changed, and removed."""
    desk, told = redmine.driver(outbound), draft()
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert await desk.find(told.ticket) == []
    made = await desk.create(told)
    assert made.state == "open"
    (found,) = await desk.find(told.ticket)
    assert found.reference == made.reference
    raw = (await redmine.by("aino", outbound, "GET", f"/issues/{made.reference}.json"))["issue"]
    assert (raw["subject"], raw["priority"]["name"], raw["status"]["name"]) == (told.title, "Urgent", "New")
    assert "9 of 10 <were> unhappy" in raw["description"]

    worse = replace(told, severity="critical", title="NPS of Acme fell to -50")
    await updated(desk, made.reference, worse, "in_progress", "A second answer came.\nIt is worse.")
    raw = (await redmine.by("aino", outbound, "GET", f"/issues/{made.reference}.json?include=journals"))["issue"]
    assert (raw["subject"], raw["priority"]["name"]) == (worse.title, "Immediate")
    assert [one["private_notes"] for one in raw["journals"] if one["notes"]] == [True]
    read = await desk.read(made.reference)
    assert read.state == "in_progress"
    assert read.changed_at is not None
    assert abs(datetime.now(UTC) - read.changed_at) < timedelta(seconds=10)

    other = await desk.create(draft())
    changed = [one.reference for one in await desk.changed(before)]
    assert set(changed) == {made.reference, other.reference}, "the issue of others has not our mark"
    assert await desk.remove(other.reference)
    with pytest.raises(Gone):
        await desk.read(other.reference)
    assert [one.reference for one in await desk.changed(before)] == [made.reference]


async def test_each_state_and_back(redmine: RealRedmine, outbound: Outbound) -> None:
    """A move is repeatable, reads back as the nearest state, and can be undone."""
    desk, told = redmine.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    states: tuple[TicketState, ...] = ("acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled")
    for wanted in states:
        for _ in range(2):
            await updated(desk, reference, told, wanted, None)
            shows = (await desk.read(reference)).state
            assert shows == {"acknowledged": "in_progress"}.get(wanted, wanted)
        await updated(desk, reference, told, "open", None)
        assert (await desk.read(reference)).state == "open"


async def test_a_workflow_that_says_no(redmine: RealRedmine, outbound: Outbound) -> None:
    """It answers 204 and does nothing: what it shows is what tells."""
    desk, told = redmine.driver(outbound, "limited"), draft()
    reference = (await desk.create(told)).reference
    assert await desk.move(reference, told, "cancelled")
    assert (await desk.read(reference)).state == "open"
    with pytest.raises(Failed, match="has no 'Nonsense' among its issue_statuses"):
        await redmine.driver(outbound, options={"waiting": "Nonsense"}).move(reference, told, "waiting")
    assert not await desk.remove(reference), "its account may not"


@pytest.mark.parametrize(
    "text",
    [
        "He said: \"it's 'done'\" \\ <b>bold</b> &amp; </p><script>alert(1)</script>",
        "Mäkinen, Ståhl & Öhman — 100 % tyytymätön 😡 漢字",
        "t" * 300,
        "One\nline\n  and\tanother",
    ],
)
async def test_any_text_survives(redmine: RealRedmine, outbound: Outbound, text: str) -> None:
    """Whatever people write arrives as they wrote it; of titles, on one line, and cut where it is too long."""
    desk = redmine.driver(outbound)
    told = draft(title=text, story=(Paragraph(text), Items((text,))), resolution=text)
    reference = (await desk.create(told)).reference
    await updated(desk, reference, told, "resolved", text)
    raw = (await redmine.by("aino", outbound, "GET", f"/issues/{reference}.json"))["issue"]
    assert raw["subject"] == " ".join(text.split()) or raw["subject"] == "t" * 249 + "…"
    assert [one.text.split() for one in await remarks_of(desk, reference)] == [text.split()]


async def test_what_people_say(redmine: RealRedmine, outbound: Outbound) -> None:
    """Notes of others, once, from where the last reading ended; a change without a note says nothing."""
    desk, told = redmine.driver(outbound), draft()
    reference = (await desk.create(told)).reference
    await desk.remark(reference, told, "a remark of ours")
    await redmine.by("aino", outbound, "PUT", f"/issues/{reference}.json", {"issue": {"notes": "On it.\nÄ & <b>"}})
    await redmine.by("aino", outbound, "PUT", f"/issues/{reference}.json", {"issue": {"done_ratio": 50}})
    read = await desk.remarks(reference, None)
    assert [(one.author, one.text, one.own) for one in read.items] == [
        ("Fiilis Desk", "a remark of ours", True),
        ("Aino Desk", "On it.\nÄ & <b>", False),
    ]
    await redmine.by("aino", outbound, "PUT", f"/issues/{reference}.json", {"issue": {"notes": "Done"}})
    assert [one.text for one in (await desk.remarks(reference, read.upto)).items] == ["Done"]


async def test_a_person_is_erased(redmine: RealRedmine, outbound: Outbound) -> None:
    """The texts are told anew; what stays is said."""
    desk = redmine.driver(outbound)
    told = draft(title="Jane Doe is unhappy", story=(Paragraph("Jane Doe: never again"),))
    reference = (await desk.create(told)).reference
    erased = replace(told, title="Somebody is unhappy", story=(Paragraph("(erased)"),))
    assert "history" in await erase(desk, reference, erased)
    raw = (await redmine.by("aino", outbound, "GET", f"/issues/{reference}.json"))["issue"]
    assert (raw["subject"], raw["description"]) == ("Somebody is unhappy", "(erased)")


async def test_what_the_account_may_not_do(redmine: RealRedmine, outbound: Outbound) -> None:
    """A wrong key, project or field is for a person to mend, and no error says the key."""
    told = draft()
    stranger = replace(redmine, keys={"fiilis": "f" * 40}).driver(outbound)
    for call in (stranger.create(told), stranger.find(told.ticket), stranger.who_am_i()):
        with pytest.raises(Failed, match="401") as failed:
            await call
        assert "f" * 40 not in failed.value.detail
    wrong: list[dict[str, Any]] = [{"group": "nobodys"}, {"options": {"field": "Other"}}]
    for more in wrong:
        with pytest.raises(Failed) as failed:
            await redmine.driver(outbound, **more).create(told)
        assert failed.value.kind == "permanent"
    assert await redmine.driver(outbound).find(told.ticket) == []


async def test_many_at_once(redmine: RealRedmine, outbound: Outbound) -> None:
    """Each finds its own."""
    desk = redmine.driver(outbound)
    several = [draft() for _ in range(4)]
    made = await asyncio.gather(*(desk.create(one) for one in several))
    found = [[one.reference for one in await desk.find(told.ticket)] for told in several]
    assert found == [[one.reference] for one in made]
