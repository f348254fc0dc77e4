"""What desks do that their documents do not say, each by every desk that can: what it must end as.

`synced`: the desk has all of it and no error is told. `waiting`: the ticket tells why, and what can be done meanwhile
is done. `followed`: another ticket of the desk is ours now.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.ticketing.store import desks
from shared.bus.client import Kafka
from shared.directory.follower import revision_of
from shared.errors import Problem
from tests.support import build
from tests.support.certificates import Authority
from tests.support.desks import FakeDesk, Trouble
from tests.support.desks.jira import FakeJira
from tests.support.office import FAKES, SEARCHABLE, Office, office
from tests.support.wait import until

Make = Callable[..., Any]

MOVES = {
    "jira": '"transition"',
    "servicenow": '"close_code"',
    "zendesk": '"status"',
    "zammad": '"state"',
    "rt": '"Status"',
    "redmine": '"status_id"',
    "glpi": "<p>Mended",
    "freshservice": '"status":',
    "webhook": '"move_to":"resolved"',
}
"""What the body of a move to resolved has, and of no other call."""
MERGING = [name for name in SEARCHABLE if hasattr(FAKES[name](), "merge")]


@pytest.fixture
async def make(database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return an office at a desk of some kind."""

    def made(of: str | FakeDesk, **settings: Any) -> Any:
        desk = FAKES[of]() if isinstance(of, str) else of
        return office(desk, database_url, kafka, monkeypatch, **settings)

    return made


def written(desk: FakeDesk, text: str) -> int:
    """Return how many calls wrote a text."""
    return sum(call.method != "GET" and text in call.body.decode() for call in desk.calls)


# ---- waiting: why


@pytest.mark.parametrize("name", FAKES)
async def test_a_move_that_asks_for_a_field(name: str, make: Make) -> None:
    """Waiting, and told why; the remark is there once, however often the move is tried, and our echo tries nothing."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.desk.refuses = MOVES[name]
        await at.say(ticket, "It was the invoice")
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
        await at.fails(ticket, "HTTP 422")
        await until(lambda: _says(at, reference, "It was the invoice"))
        tries = written(at.desk, MOVES[name])
        await at.say(ticket, "And the form")
        await until(lambda: _says(at, reference, "And the form"))
        for _ in range(8):
            at.clock.move(timedelta(seconds=10))
            await at.turned()
        assert written(at.desk, "It was the invoice") == 1
        assert written(at.desk, MOVES[name]) == tries, "nothing that we wrote ourselves has it tried again"
        assert "HTTP 422" in ((await at.shown(ticket)).error or "")

        at.desk.refuses = ""
        await at.mirrored(ticket, step=timedelta(minutes=11))
        assert (await at.shown(ticket)).error is None
        assert written(at.desk, "It was the invoice") == 1


async def _says(at: Office, reference: str, text: str) -> bool:
    return text in at.desk.tickets[reference].says()


@pytest.mark.parametrize("name", FAKES)
async def test_a_policy_that_refuses_a_change(name: str, make: Make) -> None:
    """403 for one ticket, which the account can read: waiting, and the desk is well."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        await at.mirrored(ticket)
        answer = at.desk.answer
        at.desk.answer = lambda call: (
            at.desk.refuse(403, "Data Policy Exception") if MOVES[name] in call.body.decode() else answer(call)
        )
        for _ in range(6):
            await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
            await at.fails(ticket, "Data Policy")
            await at.change(ticket, state="open")
            await at.mirrored(ticket)
        async with at.database.transaction() as tx:
            assert (await desks.healths(tx))["main"].failures == 0


@pytest.mark.parametrize("what", ["html", "redirect"])
@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_page_to_sign_in(name: str, what: Any, make: Make) -> None:
    """Waiting, told as what it is; soon after it is over all is synced."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        await at.mirrored(ticket)
        at.desk.trouble = Trouble(what)
        await at.change(ticket, state="in_progress")
        said = await at.fails(ticket, "")
        assert "html" in said if what == "html" else "redirects to http" in said
        assert await at.timeline(ticket, "deleted in the desk") == []
        at.clock.move(timedelta(minutes=10))
        await at.turned()
        at.desk.trouble = None
        at.clock.move(timedelta(minutes=3))
        await at.mirrored(ticket, step=timedelta(minutes=1))
        assert (await at.shown(ticket)).error is None


async def test_a_desk_with_an_authority_of_its_own(make: Make, tmp_path: Path) -> None:
    """Waiting, and told why; with `ca_file` all is synced. A file that is none is told too."""
    authority = Authority(tmp_path)
    desk = FAKES["zammad"]()
    desk.tls = authority.server()
    async with make(desk) as at:
        ticket = await at.open()
        at.run()
        await until(lambda: _ails(at, "CERTIFICATE_VERIFY_FAILED"))
        await at.end()
        await _apply(at, ca_file=str(tmp_path / "none.pem"))
        at.clock.move(timedelta(minutes=3))
        at.run()
        await until(lambda: _ails(at, "certificates of authorities cannot be read"))
        await at.end()
        await _apply(at, ca_file=str(authority.file))
        at.clock.move(timedelta(minutes=3))
        at.run()
        await at.mirrored(ticket, step=timedelta(minutes=3))
        assert (await at.shown(ticket)).error is None


async def _ails(at: Office, why: str) -> bool:
    async with at.database.transaction() as tx:
        health = (await desks.healths(tx)).get("main")
    return health is not None and why in (health.error or "")


async def _apply(at: Office, **more: Any) -> None:
    """Change the desk's entry in the directory."""
    assert at.follower.current is not None
    before = at.follower.current.directory
    changed = replace(before, desks={"main": replace(before.desks["main"], **more)})
    at.follower.current = revision_of(at.follower.current.number + 1, changed)


@pytest.mark.parametrize("name", FAKES)
async def test_a_secret_of_webhooks_is_replaced(name: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is, the desk may sign with either; then with the new one alone."""
    async with make(name) as at:
        desk_sync = at.run()
        variable = f"FAKE_{name.upper()}_HOOK"
        old, new = at.desk.secret, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        for value, good in ((f"{new}, {old}", (old, new)), (new, (new,))):
            monkeypatch.setenv(variable, value)
            for secret in (old, new):
                signed = at.desk.hook("4711", at.clock.now(), secret)
                if secret in good:
                    assert not await at.hear(desk_sync, *signed)
                else:
                    with pytest.raises(Problem, match="signature"):
                        await at.hear(desk_sync, *signed)


async def test_who_has_it_by_a_name_that_is_one_persons(make: Make) -> None:
    """Redmine tells no e-mail of an assignee."""
    async with make("redmine", options={"assignees": "by name"}) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.clock.move(timedelta(minutes=3))
        at.desk.take(reference, "second ARCHITECT")
        at.clock.move(timedelta(minutes=3))

        async def taken() -> bool:
            at.ledger.wake()
            return (await at.ticket(ticket)).assignee == "architect-2"

        await until(taken)


# ---- synced


@pytest.mark.parametrize("name", FAKES)
async def test_a_story_that_is_too_long(name: str, make: Make) -> None:
    """What the desk has no room for is left out, the newest answers first; state, title and remark go on."""
    async with make(name) as at:
        long = [build.evidence(comment=f"answer {n}: " + "no " * 3_000) for n in range(20)]
        ticket = await at.open(evidence=long)
        at.run()
        reference = await at.mirrored(ticket)
        told = at.desk.tickets[reference].says()
        assert "answer" in told
        if name in {"jira", "servicenow"}:
            assert str(ticket.number) in told
            assert "shortened" in told or "lyhennetty" in told
        await at.say(ticket, "Any news?")
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
        await at.mirrored(ticket)
        assert "Any news?" in at.desk.tickets[reference].says()
        assert (await at.shown(ticket)).error is None
        assert at.desk.tickets[reference].state in {at.desk.ends_as, "resolved", "Closed", "solved"}


@pytest.mark.parametrize("name", FAKES)
async def test_a_story_that_nobody_takes(name: str, make: Make) -> None:
    """Waiting; and what is essential does not wait for it."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.desk.refuses = "unspeakable"
        ticket = await at.answer(ticket, build.evidence(comment="unspeakable"))
        await at.fails(ticket, "HTTP 422")
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")

        async def resolved() -> bool:
            return name == "webhook" or at.desk.tickets[reference].state in {at.desk.ends_as, "Closed"}

        await until(resolved)


@pytest.mark.parametrize("name", FAKES)
async def test_what_is_appended_is_what_is_new(name: str, make: Make) -> None:
    """However many answers come, each is written once; where the story can be replaced it is."""
    async with make(name) as at:
        ticket = await at.open(evidence=[build.evidence(comment="The first word")])
        at.run()
        reference = await at.mirrored(ticket)
        for number in range(5):
            at.clock.move(timedelta(minutes=1))
            await at.answer(ticket, build.evidence(comment=f"Word number {number}"))
            await at.mirrored(ticket)
        says = at.desk.tickets[reference].says()
        copies = 2 if name == "rt" else 1  # it keeps the mails that it sent
        if name in {"zammad", "zendesk", "rt"}:
            assert says.count("The first word") == copies
            assert [says.count(f"Word number {number}") for number in range(5)] == [copies] * 5
        else:
            assert all(f"Word number {number}" in says for number in range(5))
            assert says.count("The first word") == 1
        await at.polled(rounds=2)
        assert await at.timeline(ticket, "desk comment") == [], "what we told is nobody's remark"


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_many_long_mails(name: str, make: Make) -> None:
    """Sixty of 10 kB and a pasted log of 1.2 MB: each is taken over once, and the state whatever they are."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.clock.move(timedelta(minutes=3))
        for number in range(60):
            at.desk.comment(reference, f"mail {number} " + "x" * 10_000)
        at.desk.comment(reference, "log " + "y" * 1_200_000)
        at.desk.end(reference)
        await at.becomes(ticket, "resolved")

        async def taken() -> bool:
            at.clock.move(timedelta(seconds=30))
            at.ledger.wake()
            return len(await at.timeline(ticket, "desk comment")) == 61

        await until(taken, seconds=40)
        await at.polled(rounds=3)
        said = [one["text"].split(" x")[0][:8].strip() for one in await at.timeline(ticket, "desk comment")]
        assert sorted(said)[-1].startswith("mail")
        assert len(set(said)) == len(said) == 61
        assert (await at.shown(ticket)).error is None


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_poll_costs_no_more_with_many_remarks(name: str, make: Make) -> None:
    """One new remark after 2,000 is read by as many calls as after 10."""
    costs: list[int] = []
    async with make(name) as at:
        at.run()
        for many in (10, 2_000):
            ticket = await at.open()
            reference = await at.mirrored(ticket)
            at.clock.move(timedelta(minutes=3))
            for number in range(many):
                at.desk.comment(reference, f"remark {number}")
            at.desk.tickets[reference].comments = at.desk.tickets[reference].comments[-3_000:]
            upto = max(one.id for one in at.desk.tickets[reference].comments)
            cursor = {
                "freshservice": f"{many // 25 + 1}:{upto}",
                "rt": str(2 * upto + 5_001),
                "servicenow": at.clock.now().strftime("%Y-%m-%d %H:%M:%S"),
            }
            async with at.database.transaction() as tx:
                await desks.note(tx, ticket.id, at.clock.now(), remarks_upto=cursor.get(name, str(upto)), unread=False)
            at.clock.move(timedelta(minutes=3))
            calls = len(at.desk.calls)
            at.desk.comment(reference, "one more")
            at.clock.move(timedelta(seconds=5))
            await until(lambda ticket=ticket: at.timeline(ticket, "desk comment"))
            costs.append(sum(reference in call.path or "article" in call.path for call in at.desk.calls[calls:]))
    assert costs[1] <= costs[0] + 1


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_what_is_internal_stays_inside(name: str, make: Make) -> None:
    """On behalf of somebody, the desk's first public text says nothing of what was said."""
    options = {"caller": "c" * 32} if name == "servicenow" else {}
    async with make(name, requester="jane@acme.example", options=options) as at:
        ticket = await at.open(evidence=[build.evidence(comment="Jane is impossible")])
        at.run()
        reference = await at.mirrored(ticket)
        made = at.desk.tickets[reference]
        assert "Jane is impossible" in made.says()
        made_by = {
            "servicenow": "correlation_id",
            "rt": "Queue",
            "glpi": "externalid",
            "freshservice": "custom_fields",
        }.get(name)
        if made_by is not None:
            (first,) = [call for call in at.desk.calls if call.method == "POST" and made_by in call.body.decode()]
            assert "impossible" not in first.body.decode()
        if name == "servicenow":
            assert "impossible" not in made.text


# ---- followed


@pytest.mark.parametrize("name", MERGING)
async def test_a_ticket_that_is_merged(name: str, make: Make) -> None:
    """The target is followed: its state and remarks count, it gets our remarks, and never our title or severity."""
    async with make(name) as at:
        ticket, pattern = await at.open(), await at.open("borealis")
        at.run()
        reference = await at.mirrored(ticket)
        target = await at.mirrored(pattern)
        async with at.database.transaction() as tx:  # it is a person's
            await tx.execute("DELETE FROM desk_ticket WHERE ticket = $1", pattern.id)
        theirs = at.desk.tickets[target]
        theirs.title, theirs.severity, theirs.ours = "Nobody can pay", "as it is", ""
        theirs.tags = set()
        at.clock.move(timedelta(minutes=3))
        at.desk.merge(reference, target)

        async def followed() -> Any:
            at.clock.move(timedelta(minutes=30))  # a search of RT's does not show it
            at.ledger.wake()
            return await at.timeline(ticket, "merged in the desk")

        await until(followed)
        await at.mirrored(ticket)
        assert (await at.shown(ticket)).reference == target
        assert (await at.ticket(ticket)).state != "resolved", "the work goes on there"
        await at.say(ticket, "A word of ours")
        await at.answer(ticket, build.evidence(comment="One more answer"))
        await at.change(ticket, severity="low")
        await at.mirrored(ticket)
        await until(lambda: _says(at, target, "A word of ours"))
        assert (theirs.title, theirs.severity) == ("Nobody can pay", "as it is")
        at.clock.move(timedelta(minutes=3))
        at.desk.comment(target, "It is the bank")
        at.desk.end(target)
        at.clock.move(timedelta(minutes=3))
        await at.becomes(ticket, "resolved")
        await until(lambda: _has_heard(at, ticket, "It is the bank"))
        assert (await at.shown(ticket)).error is None


async def _has_heard(at: Office, ticket: Any, text: str) -> bool:
    at.clock.move(timedelta(seconds=5))
    return any(text in one["text"] for one in await at.timeline(ticket, "desk comment"))


@pytest.mark.parametrize("name", MERGING)
async def test_a_ticket_that_is_merged_into_another_of_ours(name: str, make: Make) -> None:
    """Waiting: it says so, stays open here, and the other one goes on."""
    async with make(name) as at:
        ticket, other = await at.open(), await at.open("borealis")
        at.run()
        reference, target = await at.mirrored(ticket), await at.mirrored(other)
        at.clock.move(timedelta(minutes=3))
        at.desk.merge(reference, target)
        at.clock.move(timedelta(hours=2))
        await at.fails(ticket, "another ticket of ours")
        assert (await at.ticket(ticket)).state == "open"
        assert (await at.shown(other)).reference == target
        await at.change(other, state="in_progress")
        await at.mirrored(other)


async def test_an_issue_that_is_moved(make: Make) -> None:
    """Its key and its page are new ones: they are told, and it stays the same ticket."""
    async with make("jira") as at:
        assert isinstance(at.desk, FakeJira)
        ticket = await at.open()
        at.run()
        await at.mirrored(ticket)
        before = (await at.shown(ticket)).url
        at.clock.move(timedelta(minutes=3))
        at.desk.group = "OPS"
        for one in at.desk.tickets.values():
            one.updated = at.clock.now()
        (moved,) = await until(lambda: _moved(at, ticket))
        assert "OPS-" in moved["text"]
        url = (await at.shown(ticket)).url
        assert url != before
        assert "OPS-" in (url or "")


async def _moved(at: Office, ticket: Any) -> Any:
    at.clock.move(timedelta(seconds=5))
    return await at.timeline(ticket, "moved in the desk")


async def test_a_ticket_that_is_closed_for_ever(make: Make) -> None:
    """Opened again here, it gets a follow-up there that is linked to it; the old one stays in its history."""
    async with make("zendesk") as at:
        ticket = await at.open()
        at.run()
        first = await at.mirrored(ticket)
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
        await at.mirrored(ticket)
        at.clock.move(timedelta(minutes=3))
        at.desk.move(first, "closed")
        await at.polled(rounds=2)
        await at.change(ticket, state="open")
        second = await at.mirrored(ticket, step=timedelta(seconds=70))
        assert second != first
        assert at.desk.tickets[second].more["follows"] == int(first)
        assert at.desk.tickets[first].state == "closed"
        assert len(at.desk.of(ticket.id)) == 2
        assert len(await at.timeline(ticket, "followed up in the desk")) == 1
        assert await at.timeline(ticket, "duplicate") == []
        assert (await at.shown(ticket)).error is None
        at.clock.move(timedelta(minutes=3))
        at.desk.end(second)
        at.clock.move(timedelta(minutes=3))
        await at.becomes(ticket, "resolved")


@pytest.mark.parametrize(("within", "same"), [(14 * 86_400, True), (0, False)], ids=["within 14d", "follow-up"])
@pytest.mark.parametrize("name", SEARCHABLE)
async def test_what_is_opened_again(name: str, within: int, same: bool, make: Make) -> None:
    """As the directory says: in the desk's old ticket, or in a new one that follows it up."""
    async with make(name, reopen=within) as at:
        ticket = await at.open()
        at.run()
        first = await at.mirrored(ticket)
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
        await at.mirrored(ticket)
        at.clock.move(timedelta(days=1))
        await at.change(ticket, state="open")
        second = await at.mirrored(ticket, step=timedelta(seconds=70))
        assert (second == first) == same
        assert len(at.desk.of(ticket.id)) == (1 if same else 2)
        assert ("followed up in the desk" in at.desk.tickets[second].says()) != same, "it says which one it follows"


# ---- what is critical, first


async def test_what_is_critical_does_not_wait(make: Make) -> None:
    """Behind a day's worth of others, of whichever customer."""
    async with make("zammad") as at:
        for _ in range(40):
            await at.open(severity="low")
        last = await at.open("borealis", severity="critical")
        at.run()
        await at.mirrored(last)
        assert at.desk.created <= 8


@pytest.mark.parametrize("name", FAKES)
async def test_a_refused_ticket_is_tried_after_apply(name: str, make: Make) -> None:
    """Nothing waits ten minutes for what was mended in the directory."""
    async with make(name) as at:
        ticket = await at.open()
        at.run()
        await at.mirrored(ticket)
        at.desk.refuses = MOVES[name]
        await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
        await at.fails(ticket, "HTTP 422")
        at.desk.refuses = ""
        assert at.follower.current is not None
        at.follower.current = revision_of(2, at.follower.current.directory)
        await at.mirrored(ticket)
        assert (await at.shown(ticket)).error is None
