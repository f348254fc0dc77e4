"""Every driver against a runnable fake of its desk: what it does, what it says when it could not, what survives."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from services.ticketing.desks import BadSignature, Desk, Failed, FailureKind, Gone, api
from services.ticketing.desks.registry import DESKS, build
from services.ticketing.domain.story import Heading, Items, Paragraph
from shared.directory import document, model
from shared.http.client import Guard, Outbound
from shared.wire.events import TicketState
from tests.support.desk_calls import draft, erase, remarks_of, updated
from tests.support.desks import FakeDesk, Trouble, What
from tests.support.desks.freshservice import fake_freshservice
from tests.support.desks.glpi import FakeGlpi, fake_glpi
from tests.support.desks.jira import STATUSES, FakeJira, fake_jira
from tests.support.desks.redmine import FakeRedmine, fake_redmine
from tests.support.desks.rt import FakeRT, fake_rt
from tests.support.desks.servicenow import FakeServiceNow, fake_servicenow
from tests.support.desks.webhook import FakeReceiver, fake_webhook
from tests.support.desks.zammad import FakeZammad, fake_zammad
from tests.support.desks.zendesk import FakeZendesk, fake_zendesk

SEARCHABLE: dict[str, Callable[[], FakeDesk]] = {
    "freshservice": fake_freshservice,
    "glpi": fake_glpi,
    "redmine": fake_redmine,
    "jira": fake_jira,
    "jira-server": lambda: fake_jira(server=True),
    "rt": fake_rt,
    "servicenow": fake_servicenow,
    "zammad": fake_zammad,
    "zendesk": fake_zendesk,
}
FAKES = {**SEARCHABLE, "webhook": fake_webhook}
NOTES = ("freshservice", "glpi", "rt", "zammad", "zendesk")
"""Desks in which nothing that was said can be changed."""

each = pytest.mark.parametrize("fake", SEARCHABLE, indirect=True)
each_and_webhook = pytest.mark.parametrize("fake", FAKES, indirect=True)


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fake", names, indirect=True)


@pytest.fixture
async def fake(request: pytest.FixtureRequest) -> AsyncIterator[FakeDesk]:
    async with FAKES[request.param]() as made:
        yield made


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(Guard("true"))
    yield made
    await made.close()


class Budget:
    """Counts what a desk's budget is asked for."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1


def driver(fake: FakeDesk, outbound: Outbound, budget: api.Budget | None = None, **more: object) -> Desk:
    settings = model.Desk(**fake.directory_entry(**more))
    return build("main", settings, outbound, budget or Budget(), fake.environ)


# ---- what they do


@each
async def test_a_ticket_from_its_creation_to_its_end(fake: FakeDesk, outbound: Outbound) -> None:
    """Created once, found by our id, told of changes, read back, and shown among what changed."""
    desk, told = driver(fake, outbound), draft()
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert await desk.find(told.ticket) == []
    made = await desk.create(told)
    assert (made.state, fake.created) == ("open", 1)
    (ticket,) = fake.of(told.ticket)
    assert ticket.reference == made.reference
    assert ticket.title == told.title
    (found,) = await desk.find(told.ticket)
    read = await desk.read(made.reference)
    assert replace(found, changed_at=None) == replace(read, changed_at=None)
    assert (read.reference, read.label, read.url) == (made.reference, made.label, made.url)
    assert read.url.startswith(fake.url)
    assert (read.state, read.assignee) == ("open", None)

    fake.take(made.reference, "aino@desk.example")
    severity = ticket.severity
    worse = replace(told, severity="critical", title="NPS of Acme fell to -50")
    await updated(desk, made.reference, worse, "in_progress", "A second answer came.\nIt is worse.")
    assert ticket.title == worse.title
    assert ticket.severity != severity or fake.type == "zammad"  # which has three
    read = await desk.read(made.reference)
    assert (read.state, read.assignee) == ("in_progress", "aino@desk.example")
    assert read.changed_at is not None
    assert abs(datetime.now(UTC) - read.changed_at) < timedelta(seconds=5)

    fake.comment(made.reference, "On it.\nÄ & <b>", "aino@desk.example")
    ours, theirs = await remarks_of(desk, made.reference)
    assert ours.text == "A second answer came.\nIt is worse."
    assert (theirs.text, theirs.author) == ("On it.\nÄ & <b>", "aino@desk.example")
    assert ours.id != theirs.id
    assert before < theirs.at < datetime.now(UTC) + timedelta(seconds=1)

    assert [one.reference for one in await desk.changed(before)] == [made.reference]
    assert await desk.changed(datetime.now(UTC) + timedelta(seconds=5)) == [] or fake.type == "rt"  # minutes

    await updated(desk, made.reference, worse, "resolved", None)
    assert ticket.state == fake.ends_as
    assert fake.created == 1


@each
async def test_who_we_are_there(fake: FakeDesk, outbound: Outbound) -> None:
    """What our account wrote is told from what others did; an account that is nobody any more is no account."""
    for by_name in (True, False) if isinstance(fake, FakeServiceNow) else (True,):
        if not by_name:
            fake.user = None  # then the token's user is asked for
        desk, told = driver(fake, outbound), draft()
        reference = (await desk.create(told)).reference
        await updated(desk, reference, told, None, "A remark")
        fake.comment(reference, "An answer")
        assert [(one.text, one.own) for one in await remarks_of(desk, reference)] == [
            ("A remark", True),
            ("An answer", False),
        ]
        assert await desk.who_am_i()
        fake.nobody = True
        with pytest.raises(Failed) as failed:
            await desk.who_am_i()
        assert (failed.value.kind, failed.value.refusal) == ("permanent", False)
        fake.nobody = False


READS_BACK: dict[str, dict[TicketState, TicketState]] = {
    "freshservice": {"acknowledged": "open", "in_progress": "open", "cancelled": "closed"},
    "glpi": {"acknowledged": "in_progress", "cancelled": "closed"},
    "jira": {"acknowledged": "in_progress"},
    "redmine": {"acknowledged": "in_progress"},
    "rt": {"acknowledged": "in_progress", "closed": "resolved"},
    "servicenow": {"acknowledged": "in_progress", "closed": "resolved"},
    "zammad": {"open": "in_progress", "acknowledged": "in_progress", "closed": "resolved", "cancelled": "resolved"},
    "zendesk": {"open": "in_progress", "acknowledged": "in_progress", "closed": "resolved"},
}
"""Where a desk cannot tell our states apart."""


@each
@pytest.mark.parametrize("wanted", ["acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled"])
async def test_each_state_and_back(fake: FakeDesk, outbound: Outbound, wanted: TicketState) -> None:
    """A move is repeatable, reads back as the nearest state, and can be undone."""
    desk, told = driver(fake, outbound), draft(resolution="Sent a new printer.", root_cause="process/handover")
    reference = (await desk.create(told)).reference
    backs = READS_BACK[fake.type]
    for _ in range(2):
        await updated(desk, reference, told, wanted, None)
        assert (await desk.read(reference)).state == backs.get(wanted, wanted)
    await updated(desk, reference, told, "open", None)
    assert (await desk.read(reference)).state == backs.get("open", "open")


@each
async def test_what_a_person_does_in_the_desk(fake: FakeDesk, outbound: Outbound) -> None:
    """Done by hand is read as resolved; what is over is not moved again; deleted is gone for every call."""
    desk, told = driver(fake, outbound), draft()
    reference = (await desk.create(told)).reference
    since = datetime.now(UTC) - timedelta(seconds=2)
    fake.end(reference)
    assert (await desk.read(reference)).state == "resolved"
    assert [one.state for one in await desk.changed(since)] == ["resolved"]
    await updated(desk, reference, told, "cancelled", None)
    assert fake.tickets[reference].state == fake.ends_as, "it is over: in which way is the desk's"

    fake.delete(reference)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: desk.read(reference),
        lambda: updated(desk, reference, told, "resolved", None),
    ]
    if fake.type != "rt":  # whose deleted tickets can be written to
        calls += [
            lambda: remarks_of(desk, reference),
            lambda: updated(desk, reference, told, None, "hello"),
        ]
    for call in calls:
        with pytest.raises(Gone):
            await call()
    assert await desk.find(told.ticket) == []
    for odd in ("../../login", "a b", "1^ORsys_idISNOTEMPTY", ""):
        with pytest.raises(Gone):
            await desk.read(odd)


HARD = (
    "He said: \"it's 'done'\" \\ <b>bold</b> &amp; </p><script>alert(1)</script>",
    "Mäkinen, Ståhl & Öhman — 100 % tyytymätön 😡 漢字",
    'x" OR labels = "fiilis" ^ORstate=1 CF.{ExternalID} = \'y\' {code}',
    "t" * 200,
)


@each_and_webhook
@pytest.mark.parametrize("text", HARD)
async def test_any_text_survives(fake: FakeDesk, outbound: Outbound, text: str) -> None:
    """Whatever people write arrives as they wrote it, and changes no query."""
    desk = driver(fake, outbound)
    told = draft(title=f"{text}"[:200], story=(Paragraph(text), Items((text,))), resolution=text)
    made = await desk.create(told)
    await updated(desk, made.reference, told, "resolved", text)
    (ticket,) = fake.tickets.values()
    assert ticket.title in {told.title, told.title[:159] + "…"}
    assert api.letters(text) in api.letters(api.visible(ticket.says()) + ticket.says())
    assert api.letters(told.title) in api.letters(ticket.says())
    if not isinstance(fake, FakeReceiver):
        assert [one.text for one in await remarks_of(desk, made.reference)] == [text]
        assert len(await desk.find(told.ticket)) == 1


GIVEN: dict[str, dict[str, object]] = {
    "freshservice": {"custom_fields": {"site": "web"}, "tags": ["care"]},
    "jira": {"labels": ["care"], "components": [{"name": "Web"}]},
    "redmine": {"custom_fields": [{"id": 8, "value": "web"}]},
    "rt": {"CustomFields": {"Site": "web"}},
    "servicenow": {"category": "care"},
    "glpi": {"itilcategories_id": 4},
    "zammad": {"tags": ["care"]},
    "zendesk": {"tags": ["care"], "custom_fields": [{"id": 1, "value": "web"}]},
}


@each
async def test_what_the_directory_gives_besides_takes_no_place_of_ours(fake: FakeDesk, outbound: Outbound) -> None:
    """A label or a custom field of the company's is added to those by which the ticket is found."""
    desk, told = driver(fake, outbound, fields={"create": GIVEN[fake.type]}), draft()
    made = await desk.create(told)
    assert [one.reference for one in await desk.find(told.ticket)] == [made.reference]
    since = datetime.now(UTC) - timedelta(seconds=5)
    assert [one.reference for one in await desk.changed(since)] == [made.reference]
    (sent,) = [
        call.body.decode() for call in fake.calls if call.method == "POST" and str(told.ticket) in call.body.decode()
    ]
    assert all(word in sent for word in re.findall(r"care|web|Web|4", str(GIVEN[fake.type])))


@each
async def test_a_title_of_two_lines(fake: FakeDesk, outbound: Outbound) -> None:
    """No desk has such titles; some refuse them."""
    desk = driver(fake, outbound)
    await desk.create(draft(title="One\nline\r\n  and\tanother"))
    (ticket,) = fake.tickets.values()
    assert ticket.title == "One line and another"


@each
async def test_only_tickets_with_our_id_are_found(fake: FakeDesk, outbound: Outbound) -> None:
    """The oldest first, so that the youngest is the duplicate; never another's, even where the search shows all."""
    desk, told = driver(fake, outbound), draft()
    first = await desk.create(told)
    if isinstance(fake, FakeZendesk):
        fake._keys.clear()  # hours later
    second = await desk.create(told)
    await desk.create(draft())
    if isinstance(fake, FakeServiceNow):
        fake.fields.clear()
    if isinstance(fake, FakeZammad):
        fake.knows_conditions = False
    if isinstance(fake, FakeRedmine):
        fake.knows_filter = False
    if isinstance(fake, FakeGlpi):
        fake.knows_field = False
    assert [one.reference for one in await desk.find(told.ticket)] == [first.reference, second.reference]
    assert await desk.find(uuid4()) == []


@each
async def test_a_search_that_lags(fake: FakeDesk, outbound: Outbound) -> None:
    """What was just created may not be found yet, which is why each driver says how long to wait."""
    fake.search_delay = 0.3
    desk, told = driver(fake, outbound), draft()
    await desk.create(told)
    assert await desk.find(told.ticket) == []
    fake.search_delay = 0
    assert len(await desk.find(told.ticket)) == 1
    assert desk.settles >= 30, "longer than a call may take"


@only(*NOTES)
async def test_what_came_since_is_one_more_note(fake: FakeDesk, outbound: Outbound) -> None:
    """Where nothing can be overwritten; notes of ours are no remarks."""
    desk, told = driver(fake, outbound), draft()
    reference = (await desk.create(told)).reference
    ticket = fake.tickets[reference]
    before = len(ticket.comments)
    await desk.describe(reference, told)
    assert len(ticket.comments) == before
    await desk.tell(reference, told, (Paragraph("A further answer: <3"),))
    assert "A further answer: <3" in api.visible(ticket.says())
    assert len(ticket.comments) > before
    assert await remarks_of(desk, reference) == []
    await desk.remark(reference, told, "and a remark")
    assert [one.text for one in await remarks_of(desk, reference)] == ["and a remark"]


@each_and_webhook
async def test_a_person_is_erased(fake: FakeDesk, outbound: Outbound) -> None:
    """What we told of a person goes, as far as the desk lets us; what stays is said. Doing it twice changes nothing."""
    desk = driver(fake, outbound)
    told = draft(title="Jane Doe is unhappy", story=(Heading("Said"), Items(("Jane Doe: never again",))))
    reference = (await desk.create(told)).reference
    erased = replace(told, title="Somebody is unhappy", story=(Heading("Said"), Items(("(erased)",))))
    for _ in range(2):
        left = await erase(desk, reference, erased)
        assert left
    said = fake.tickets[reference].says()
    assert "(erased)" in said
    if isinstance(fake, FakeRT):
        assert "rt-munge-attachments" in left
    else:
        assert "Jane" not in said


# ---- what goes wrong

CREATING: dict[What, FailureKind] = {
    "limited": "limited",
    "busy": "unknown",
    "before": "unknown",
    "after": "unknown",
    "lost": "unknown",
    "hang": "unknown",
    "html": "unknown",
    "huge": "unknown",
    "odd": "unknown",
    "deep": "unknown",
    "redirect": "temporary",
    "echo": "permanent",
}
READING: dict[What, FailureKind] = {
    **CREATING,
    "busy": "limited",
    "before": "temporary",
    "after": "temporary",
    "lost": "temporary",
    "hang": "temporary",
    "html": "temporary",
    "huge": "permanent",
    "deep": "permanent",
}


@each
@pytest.mark.parametrize("what", CREATING)
async def test_trouble_is_classified(
    fake: FakeDesk, outbound: Outbound, monkeypatch: pytest.MonkeyPatch, what: What
) -> None:
    """A create or an update that may have been done is `unknown`; a look never is, unless its answer is odd."""
    desk, told = driver(fake, outbound), draft()
    reference = (await desk.create(draft())).reference
    monkeypatch.setattr(api, "_SECONDS", 0.3 if what == "hang" else 5.0)
    calls: list[tuple[Callable[[], Awaitable[object]], FailureKind]] = [
        (lambda: desk.create(told), CREATING[what]),
        (lambda: desk.find(told.ticket), READING[what]),
        (lambda: desk.read(reference), READING[what]),
        (lambda: remarks_of(desk, reference), READING[what]),
        (lambda: desk.changed(datetime.now(UTC)), READING[what]),
    ]
    for call, kind in calls:
        # Only the create writes; what it looks up before is well.
        fake.trouble = Trouble(what, methods={"POST"} if kind is calls[0][1] and call is calls[0][0] else {"GET"})
        with pytest.raises(Failed) as failed:
            await call()
        assert failed.value.kind == kind, failed.value.detail
        assert failed.value.refusal == (what == "echo"), "400 is about what was asked, the rest is the desk's"
        assert failed.value.retry_after == (7 if what in {"limited", "busy"} else None)
        assert fake.token not in failed.value.detail
    done = {"after", "lost", "hang", "huge", "odd", "deep"}
    assert len(fake.of(told.ticket)) == (what in done), "and the ticket is there, or not"

    fake.trouble = Trouble(what, methods={"PUT", "PATCH"})
    nothing_said = fake.type in {"jira", "redmine"} and what in {"huge", "deep"}  # their 204 has no body
    if what != "odd" and not nothing_said:
        with pytest.raises(Failed) as failed:
            await updated(desk, reference, told, None, None)
        assert failed.value.kind == CREATING[what]
        asked_why = CREATING[what] == "permanent"
        assert asked_why or fake.calls[-1].method in {"PUT", "PATCH"}, "who is told to wait does not ask further"
    fake.trouble = None
    monkeypatch.undo()
    await updated(desk, reference, told, "waiting", "well again")
    assert len(await desk.find(told.ticket)) == len(fake.of(told.ticket))


@each
async def test_one_ticket_after_an_unknown_outcome(fake: FakeDesk, outbound: Outbound) -> None:
    """The call was lost after the ticket was made: looking by our id finds it."""
    desk, told = driver(fake, outbound), draft()
    fake.trouble = Trouble("lost", methods={"POST"}, times=1)
    with pytest.raises(Failed) as failed:
        await desk.create(told)
    assert failed.value.kind == "unknown"
    (found,) = await desk.find(told.ticket)
    assert fake.tickets.keys() == {found.reference}


@each_and_webhook
async def test_what_the_account_may_not_do(fake: FakeDesk, outbound: Outbound) -> None:
    """401 and 403 are for a person to mend, and no error says what the token is."""
    for broken in ("token", "forbidden", "echo"):
        wrong = dict(fake.environ)
        if broken == "token":
            name = next(name for name in wrong if name.endswith("TOKEN"))
            wrong[name] = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        fake.forbidden = broken == "forbidden"
        fake.trouble = Trouble("echo") if broken == "echo" else None
        desk = build("main", model.Desk(**fake.directory_entry()), outbound, Budget(), wrong)
        with pytest.raises(Failed) as failed:
            await desk.create(draft())
        assert failed.value.kind == "permanent"
        assert ("HTTP 400" in failed.value.detail) == (broken == "echo") == failed.value.refusal
        sent = fake.calls[-1].headers.get("authorization", "nothing-sent")
        for secret in (fake.token, fake.environ.get(f"FAKE_{fake.type.upper()}_USER", "none"), sent.split()[-1]):
            assert secret not in failed.value.detail
            assert secret not in str(failed.value)


@each_and_webhook
async def test_a_wrong_address(fake: FakeDesk, outbound: Outbound) -> None:
    """Not there is a wrong setting where no ticket was named; nobody there is trouble that passes."""
    desk, told = driver(fake, outbound, url=f"{fake.url}/elsewhere"), draft()
    with pytest.raises(Failed) as failed:
        await desk.create(told)
    assert failed.value.kind == "permanent"
    if not isinstance(fake, FakeReceiver):
        for call in (desk.find(told.ticket), desk.changed(datetime.now(UTC))):
            with pytest.raises(Failed) as failed:
                await call
            assert failed.value.kind == "permanent"
    await fake.__aexit__()
    with pytest.raises(Failed) as failed:
        await driver(fake, outbound).create(told)
    assert failed.value.kind == "temporary", "nothing was sent"
    guarded = Outbound(Guard(""))
    with pytest.raises(Failed) as failed:
        await driver(fake, guarded).create(told)
    assert failed.value.kind == "permanent"
    assert "FIILIS_ALLOW_PRIVATE_TARGETS" in failed.value.detail
    await guarded.close()


@each_and_webhook
async def test_slow_answers_and_the_budget(fake: FakeDesk, outbound: Outbound) -> None:
    """Slow is not broken; each call waits for its place in the desk's budget."""
    fake.delay = 0.05
    budget = Budget()
    desk, told = driver(fake, outbound, budget), draft()
    reference = (await desk.create(told)).reference
    await updated(desk, reference, told, "waiting", "a remark")
    await desk.changed(datetime.now(UTC))
    assert budget.calls == len(fake.calls)
    assert all(call.headers["user-agent"] == "Fiilis" for call in fake.calls)


# ---- settings and secrets


@each_and_webhook
async def test_the_least_that_must_be_set(fake: FakeDesk, outbound: Outbound) -> None:
    """Type, url, token and group are enough; what a token's file ends with is no part of it."""
    fake.user = None
    wanted = {"type", "url", "token_env", "group", *(["requester"] if fake.type == "freshservice" else [])}
    entry = {key: value for key, value in fake.directory_entry().items() if key in wanted}
    if fake.type == "jira":
        entry["options"] = fake.options
    checked = document.Desk(**entry)
    assert checked.type in DESKS
    environ = {entry["token_env"]: f"{fake.token}\n"}
    desk = build("main", model.Desk(**entry), outbound, Budget(), environ)
    told = draft()
    reference = (await desk.create(told)).reference
    await updated(desk, reference, told, "waiting", "a remark")
    assert len(fake.of(told.ticket)) == 1


@each_and_webhook
async def test_secrets_that_are_missing_or_none(fake: FakeDesk, outbound: Outbound) -> None:
    """A person is told which variable to set."""
    settings = model.Desk(**fake.directory_entry())
    for environ in ({}, {**fake.environ, settings.token_env: " \n"}):
        with pytest.raises(Failed, match=f"{settings.token_env} is not set") as failed:
            build("main", settings, outbound, Budget(), environ)
        assert failed.value.kind == "permanent"
    if settings.user_env is not None:
        with pytest.raises(Failed, match=f"{settings.user_env} is not set"):
            build("main", settings, outbound, Budget(), {settings.token_env: fake.token})
    else:
        with pytest.raises(Failed) as failed:
            build("main", settings, outbound, Budget(), {settings.token_env: "s€cret-token\nmore"})
        assert "s€cret" not in failed.value.detail
    with pytest.raises(Failed, match="no driver"):
        build("main", model.Desk("carrier-pigeon", fake.url, settings.token_env), outbound, Budget(), fake.environ)


@only("jira", "rt", "servicenow", "zammad", "zendesk")
async def test_a_group_that_the_desk_does_not_have(fake: FakeDesk, outbound: Outbound) -> None:
    """It is for a person to mend, and nothing is created elsewhere."""
    desk = driver(fake, outbound, group="Nobody's")
    with pytest.raises(Failed) as failed:
        await desk.create(draft())
    assert failed.value.kind == "permanent"
    assert fake.tickets == {}


@each_and_webhook
async def test_what_a_desk_tells_of_itself(fake: FakeDesk, outbound: Outbound) -> None:
    """A signed request names its ticket; one that is forged, altered or old is nobody's."""
    desk, now = driver(fake, outbound), datetime.now(UTC)
    headers, body = fake.hook("4711")
    assert desk.heard(headers, body, fake.secret, now).reference == "4711"
    lower = {name.lower(): value for name, value in headers.items()}
    assert desk.heard(lower, body, fake.secret, now).reference == "4711"
    forged, _ = fake.hook("4711", secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    with pytest.raises(BadSignature):
        desk.heard(forged, body, fake.secret, now)
    for bad in ({}, dict.fromkeys(headers, ""), dict.fromkeys(headers, "sha256=ünd"), dict.fromkeys(headers, "9" * 30)):
        with pytest.raises(BadSignature):
            desk.heard(bad, body, fake.secret, now)
    with pytest.raises(BadSignature):
        desk.heard(headers, body, "", now)
    if fake.type in {"jira", "webhook", "zammad", "zendesk"}:  # the others cannot sign what they send
        with pytest.raises(BadSignature):
            desk.heard(headers, body.replace(b"4711", b"4712"), fake.secret, now)
    if fake.type in {"zendesk", "webhook"}:
        for minutes, good in ((-6, False), (-4, True), (4, True), (6, False)):
            headers, body = fake.hook("4711", now + timedelta(minutes=minutes))
            if good:
                assert desk.heard(headers, body, fake.secret, now).reference == "4711"
            else:
                with pytest.raises(BadSignature):
                    desk.heard(headers, body, fake.secret, now)


@only("servicenow")
async def test_a_body_that_names_no_ticket(fake: FakeDesk, outbound: Outbound) -> None:
    desk = driver(fake, outbound)
    headers, _ = fake.hook("")
    for body in (
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"sys_id": {}}',
        b'{"sys_id": ""}',
        b'{"sys_id": true}',
        b"\xff",
        b"[" * 9999,
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            desk.heard(headers, body, fake.secret, datetime.now(UTC))


# ---- what only one of them has


async def test_zendesk_repeats_its_answer(outbound: Outbound) -> None:
    """A create that is sent again within hours makes no second ticket, even while nothing is found."""
    async with fake_zendesk() as fake:
        fake.search_delay = 60
        desk, told = driver(fake, outbound, requester="care@example.test"), draft()
        fake.trouble = Trouble("after", methods={"POST"}, times=1)
        with pytest.raises(Failed):
            await desk.create(told)
        made = await desk.create(told)
        assert list(fake.tickets) == [made.reference]
        assert fake.tickets[made.reference].more["requester"] == "care@example.test"


async def test_zendesk_closed_and_untaken(outbound: Outbound) -> None:
    """Solving needs an assignee: the account, unless somebody has taken it. Closed refuses all but blackening."""
    async with fake_zendesk() as fake:
        desk, told = driver(fake, outbound), draft(story=(Paragraph("Jane said no"),))
        reference = (await desk.create(told)).reference
        ticket = fake.tickets[reference]
        await updated(desk, reference, told, "cancelled", None)
        assert (ticket.state, ticket.assignee) == ("solved", fake.user)
        assert "fiilis-cancelled" in ticket.tags
        fake.move(reference, "closed")
        assert (await desk.read(reference)).state == "cancelled"
        assert (await desk.read(reference)).sealed
        with pytest.raises(Failed) as failed:
            await updated(desk, reference, told, "open", None)
        assert failed.value.kind == "permanent"
        ticket.tags.discard("fiilis-cancelled")
        assert await desk.redact(reference, replace(told, story=(Paragraph("(erased)"),)))
        assert "Jane" not in ticket.text + "".join(one.text for one in ticket.comments)


async def test_jira_goes_where_the_workflow_leads(outbound: Outbound) -> None:
    """By name, by category, never to a rejection; where no way leads there, or a field is asked for, it says which."""
    async with fake_jira() as fake:
        desk, told = driver(fake, outbound), draft()
        reference = (await desk.create(told)).reference
        ticket = fake.tickets[reference]
        fake.workflow["To Do"] = ["Canceled", "Closed", "In Progress", "Pending"]
        await updated(desk, reference, told, "resolved", None)
        assert ticket.state == "Closed", "rather than cancelled"
        fake.move(reference, "To Do")
        fake.workflow["To Do"] = ["In Progress"]
        await updated(desk, reference, told, "waiting", None)
        assert ticket.state == "In Progress", "as near as it comes"
        fake.workflow["In Progress"] = ["To Do"]
        await updated(desk, reference, told, "waiting", None)
        with pytest.raises(Failed, match="it offers To Do: the option `resolved`") as failed:
            await updated(desk, reference, replace(told, title="Never"), "resolved", "never")
        assert failed.value.kind == "permanent"
        fake.workflow["In Progress"] = ["Resolved"]
        fake.asks["Resolved"] = ("components", "customfield_10")
        with pytest.raises(Failed, match=r"asks for components, customfield_10: give them in `fields: .resolved"):
            await desk.move(reference, told, "resolved")
        given = {"resolved": {"components": [{"name": "Web"}], "customfield_10": "x", "comment": "Mended"}}
        assert await driver(fake, outbound, fields=given).move(reference, told, "resolved")
        assert "Mended" in str(fake.calls[-1].json["update"])
        fake.move(reference, "In Progress")
        fake.workflow["In Progress"] = ["Pending", "To Do"]
        named = driver(fake, outbound, options={"acknowledged": "Pending", "waiting": "To Do", "priority": "no"})
        await updated(named, reference, told, "acknowledged", None)
        assert ticket.state == "Pending"
        assert (await named.read(reference)).state == "acknowledged"


async def test_jira_is_written_to_before_it_ends_and_after_it_is_back(outbound: Outbound) -> None:
    """A closed issue may not be editable."""
    async with fake_jira() as fake:
        assert isinstance(fake, FakeJira)
        desk, told = driver(fake, outbound), draft()
        reference = (await desk.create(told)).reference
        await updated(desk, reference, told, "closed", "the end")
        assert fake.tickets[reference].state == "Closed"
        await updated(desk, reference, replace(told, title="Again"), "open", "and again")
        assert fake.tickets[reference].title == "Again"
        assert STATUSES[fake.tickets[reference].state] == "new"


async def test_servicenow_is_told_why_and_keeps_its_own_fields(outbound: Outbound) -> None:
    """Resolving gives a code and notes; what the desk has closed stays closed; a long title is in the description."""
    async with fake_servicenow() as fake:
        desk, told = driver(fake, outbound), draft(title="long " * 40, resolution="Sent a new printer.")
        reference = (await desk.create(told)).reference
        ticket = fake.tickets[reference]
        assert ticket.title.endswith("…")
        assert told.title.strip() in ticket.text
        await updated(desk, reference, told, "resolved", None)
        assert ticket.more["close_code"] == "Solution provided"
        assert (await desk.read(reference)).resolution == "Sent a new printer."
        fake.move(reference, "7")
        assert (await desk.read(reference)).state == "closed"
        await updated(desk, reference, told, "closed", None)
        written = [call.json.get("state") for call in fake.calls if call.method == "PATCH"]
        assert [state for state in written if state] == ["6"]
        with pytest.raises(Failed) as failed:
            await updated(desk, reference, told, "open", None)
        assert failed.value.kind == "permanent"


async def test_zammad_lets_nobody_delete_old_notes(outbound: Outbound) -> None:
    """What could not be deleted is said."""
    async with fake_zammad() as fake:
        desk, told = driver(fake, outbound), draft()
        reference = (await desk.create(told)).reference
        fake.notes_are_old = True
        left = await desk.redact(reference, replace(told, story=(Paragraph("(erased)"),)))
        assert left.startswith("1 notes of ours")


async def test_rt_without_the_field_and_without_the_way(outbound: Outbound) -> None:
    """RT drops a field that it does not have and tells in words what it did not do: both are seen."""
    async with fake_rt() as fake:
        fake.fields = ["Other"]
        desk, told = driver(fake, outbound), draft()
        with pytest.raises(Failed, match="ExternalID") as failed:
            await desk.create(told)
        assert (failed.value.kind, fake.tickets) == ("permanent", {})
        fake.fields = ["ExternalID"]
        reference = (await desk.create(told)).reference
        fake.moves = False
        with pytest.raises(Failed, match="You can't change status") as failed:
            await updated(desk, reference, told, "resolved", None)
        assert failed.value.kind == "permanent"


async def test_rt_drops_our_id_if_the_account_may_not_set_it(outbound: Outbound) -> None:
    """A ticket that nobody would find again is cancelled, and a person told; from then on it is trusted."""
    async with fake_rt() as fake:
        fake.sets_fields = False
        desk, told = driver(fake, outbound), draft()
        with pytest.raises(Failed, match="ModifyCustomField") as failed:
            await desk.create(told)
        assert failed.value.kind == "permanent"
        assert [one.state for one in fake.tickets.values()] == ["rejected"]
        fake.sets_fields = True
        reference = (await desk.create(told)).reference
        assert [one.reference for one in await desk.find(told.ticket)] == [reference]
        looked = len(fake.calls)
        await desk.create(draft())
        assert len(fake.calls) == looked + 1


async def test_rt_shows_what_is_said_once_and_only_of_its_ticket(outbound: Outbound) -> None:
    """A mail has its text twice; the texts of a ticket that is not there are those of all."""
    async with fake_rt() as fake:
        desk, told = driver(fake, outbound), draft()
        reference = (await desk.create(told)).reference
        fake.mail(reference, "Still <broken>.\n", "jane@acme.example")
        assert [(one.text, one.author) for one in await remarks_of(desk, reference)] == [
            ("Still <broken>.", "jane@acme.example")
        ]
        with pytest.raises(Gone):
            await remarks_of(desk, "4711")


async def test_rt_keeps_so_many_bytes_of_a_title(outbound: Outbound) -> None:
    """A longer one is visibly cut."""
    async with fake_rt() as fake:
        await driver(fake, outbound).create(draft(title="ä" * 150))
        (ticket,) = fake.tickets.values()
        assert ticket.title == "ä" * 98 + "…"


# ---- the signed webhook


async def test_a_webhook_is_told_everything(outbound: Outbound) -> None:
    """Signed, by the same id for each try to create; an answer may name the ticket."""
    async with fake_webhook() as fake:
        desk, told = driver(fake, outbound, options={"ticket_url": "https://desk.example/t/{reference}"}), draft()
        fake.trouble = Trouble("lost", times=1)
        with pytest.raises(Failed) as failed:
            await desk.create(told)
        assert failed.value.kind == "unknown"
        assert await desk.find(told.ticket) == ()
        made = await desk.create(replace(told, title="told again, later"))
        assert (made.reference, made.url) == ("W-1", f"{fake.url}/tickets/W-1")
        assert {call.headers["webhook-id"] for call in fake.calls} == {f"{told.ticket}:create"}
        assert fake.created == 1
        data = fake.calls[0].json["data"]
        assert UUID(data["ticket"]) == told.ticket
        assert "NPS fell to -12." in data["story"]

        await updated(desk, "W-1", told, "resolved", "done")
        await updated(desk, "W-1", told, "open", None)
        await updated(desk, "W-1", told, "resolved", "done")
        ids = [call.headers["webhook-id"] for call in fake.calls[2:]]
        assert len(set(ids)) == len(ids), "what is told again later is no repetition"
        assert all(call.json["data"]["title"] == told.title for call in fake.calls[2:]), "each says all of it"
        assert fake.tickets["W-1"].state == "resolved"
        read = await desk.read("W-1")
        assert (read.url, read.state) == ("https://desk.example/t/W-1", None)
        assert (await remarks_of(desk, "W-1"), await desk.changed(datetime.now(UTC))) == ([], ())


async def test_a_webhook_that_says_nothing(outbound: Outbound) -> None:
    """2xx is enough: then our id is the reference."""
    async with fake_webhook() as fake:
        fake.says_reference = False
        desk, told = driver(fake, outbound), draft()
        made = await desk.create(told)
        assert (made.reference, made.label) == (str(told.ticket), "#42")
        await updated(desk, made.reference, told, None, "a remark")
        assert [one.text for one in fake.tickets[made.reference].comments] == ["a remark"]


@pytest.mark.parametrize("what", CREATING)
async def test_trouble_of_a_webhook(outbound: Outbound, monkeypatch: pytest.MonkeyPatch, what: What) -> None:
    """As of the others; but what a 2xx says besides does not matter."""
    monkeypatch.setattr(api, "_SECONDS", 0.1 if what == "hang" else 5.0)
    async with fake_webhook() as fake:
        fake.trouble = Trouble(what)
        desk = driver(fake, outbound)
        if what in {"html", "huge", "odd", "deep"}:
            told = draft()
            assert (await desk.create(told)).reference == str(told.ticket)
            return
        with pytest.raises(Failed) as failed:
            await desk.create(draft())
        assert failed.value.kind == CREATING[what]
        with pytest.raises(Failed) as failed:
            await updated(desk, "W-9", draft(), None, None)
        assert failed.value.kind == CREATING[what]
