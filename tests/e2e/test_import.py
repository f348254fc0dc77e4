"""`import FILE.csv`: past answers count where they belong in time, once, and nobody is paged for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.cli.answers_csv import Map, WrongFile, posted, read_csv, read_map
from services.cli.importing import taking
from shared.wire.events import FeedbackReceivedV1
from tests.support.build import customer, directory
from tests.support.house import House
from tests.support.processes import Done, command
from tests.support.wait import until


async def imported(fiilis: House, file: Path, *options: str) -> Done:
    settings = {"FIILIS_KAFKA": fiilis.kafka.bootstrap, "FIILIS_TOPIC_PREFIX": fiilis.kafka.prefix}
    return await command("import", str(file), *options, **settings)


def written(file: Path, *lines: str, encoding: str = "utf-8") -> Path:
    _ = file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


async def said(fiilis: House, count: int, customer: str = "acme") -> list[dict[str, Any]] | None:
    found = await fiilis.items(f"/v1/customers/{customer}/feedback", limit=500)
    return found if len(found) == count else None


async def test_a_company_brings_its_past(fiilis: House, tmp_path: Path) -> None:
    """Each row counts once, in its hour, and pages nobody; what is wrong is named, mended in its place, and counts."""
    now = fiilis.clock.now()

    def row(days: float, what: str) -> str:
        return f"acme,{what},{(now - timedelta(days=days)).isoformat()}"

    header = "customer,kind,score,touchpoint,respondent,comment,occurred_at"
    good = [row(days + 0.5, f"mood,1,support,,day {days}") for days in range(40)]
    good += [row(1, "nps,2,billing,,"), row(1, "nps,2,billing,,")]
    bad = [
        row(1, "mood,9,support,,"),
        row(500, "mood,1,support,,"),
        row(1, "mood,1,garden,,"),
        "acme,mood,1,support,,",
        "acme,mood,1,support,,,",
        "acme,mood,1,support,,,2026-01-05T10:00:00",
        row(1, "mood,1,support,r,").replace("acme", "nobody"),
    ]
    file = written(tmp_path / "past.csv", header, *good, *bad)
    checked = await imported(fiilis, file, "--dry-run")
    assert (checked.code, checked.out.splitlines()[0]) == (1, "42 answers could be imported, 7 rows refused")
    first = await imported(fiilis, file)
    assert (first.code, first.out.splitlines()[0]) == (1, "42 answers imported, 7 rows refused")
    assert first.err.splitlines() == [
        f"{file}:44: score: must be from 1 to 4 for kind mood",
        f"{file}:45: occurred_at: is older than answers are kept",
        f"{file}:46: touchpoint: acme has no touchpoint 'garden'",
        f"{file}:47: row: has 6 cells and the header 7",
        f"{file}:48: occurred_at: is required, with a time zone such as Z",
        f"{file}:49: occurred_at: is required, with a time zone such as Z",
        f"{file}:50: customer: unknown customer 'nobody'",
    ]
    assert first.err == checked.err
    stored = await until(lambda: said(fiilis, 42)) or []
    assert {answer["channel"] for answer in stored} == {"import"}

    lines = file.read_text().splitlines()
    lines[43] = lines[43].replace("mood,9", "mood,4")
    lines.append(row(2, "nps,10,billing,r-1,later"))
    again = await imported(fiilis, written(file, *lines))
    assert again.out.splitlines()[0] == "44 answers imported, 6 rows refused"
    assert await until(lambda: said(fiilis, 44))

    scores = await fiilis.get("/v1/customers/acme/scores", window="30d")
    assert scores["nps"]["responses"] == 3
    assert scores["mood"]["counts"]["1"] == 30
    assert scores["mood"]["counts"]["4"] == 1
    assert await fiilis.items("/v1/alerts") == []
    assert await fiilis.items("/v1/tickets") == []
    assert await fiilis.items("/v1/pages") == []
    headers = {"Authorization": f"Bearer {fiilis.key}"}
    export = await fiilis.client.get("/v1/customers/acme/export.csv", headers=headers)
    _ = (tmp_path / "export.csv").write_bytes(export.content)
    moved = await imported(fiilis, tmp_path / "export.csv", "--set", "customer=borealis")
    assert (moved.code, moved.out.splitlines()) == (0, ["44 answers imported, 0 rows refused"])
    there = await until(lambda: said(fiilis, 44, "borealis")) or []
    here = await said(fiilis, 44) or []
    unchanged = set(here[0]) - {"received_at", "backfill"}
    assert [{name: one[name] for name in unchanged} for one in there] == [
        {name: one[name] for name in unchanged} for one in here
    ]

    await fiilis.post({"kind": "mood", "score": 1, "customer": "acme"})
    assert await fiilis.ticket(), "a live answer still pages"


async def test_another_tools_export(fiilis: House, tmp_path: Path) -> None:
    """A map names its columns, words and times; what it never says is given; spreadsheets write ; and a mark."""
    mapped = written(
        tmp_path / "faces.yaml",
        "columns: {Button: score, Place: touchpoint, Time: occurred_at}",
        "values:",
        "  score: {very happy: '4', happy: '3', unhappy: '2', very unhappy: '1'}",
        "  touchpoint: {Front desk: support}",
        "given: {kind: mood}",
        "times: {format: '%d.%m.%Y %H:%M', timezone: Europe/Helsinki}",
    )
    day = f"{fiilis.clock.now() - timedelta(days=2):%d.%m.%Y}"
    file = written(
        tmp_path / "export.csv",
        "Time;Serial;Button;Place",
        f"{day} 10:30;77;very happy;Front desk",
        f"{day} 11:30;77;unhappy;Front desk",
        f"{day} 12:30;77;so so;Front desk",
        "yesterday;77;happy;Front desk",
        encoding="utf-8-sig",
    )
    done = await imported(fiilis, file, "--map", str(mapped), "--set", "customer=acme")
    assert done.out.splitlines()[0] == "2 answers imported, 2 rows refused"
    told = done.err.splitlines()
    assert told[0].startswith(f"{file}:4: Expected `int | float`")
    assert told[1] == f"{file}:5: occurred_at: time data 'yesterday' does not match format '%d.%m.%Y %H:%M'"
    stored = await until(lambda: said(fiilis, 2)) or []
    assert [(answer["score"], answer["touchpoint"]) for answer in stored] == [(2, "support"), (4, "support")]
    assert datetime.fromisoformat(stored[1]["occurred_at"]).astimezone(UTC).hour in {7, 8}, "10:30 in Helsinki"


# ---- the file


def rows(file: Path, mapped: Map | None = None) -> list[Any]:
    """Return what each row says, or what is wrong with it."""

    def take(cells: dict[str, Any], _: int) -> FeedbackReceivedV1:
        return posted(cells)  # type: ignore[return-value]  # what is posted is enough here

    return list(read_csv(file, take, mapped))


def test_a_cell_may_hold_anything(tmp_path: Path) -> None:
    """Commas, quotes and lines in a comment; an empty cell says nothing; a blank line is none; columns are trimmed."""
    file = written(
        tmp_path / "a.csv",
        "customer, kind,score ,occurred_at,comment,context,trust",
        'acme,nps,7,2026-01-05T10:00:00Z,"He said ""no"",\nand left","{""page"": ""/x""}",anonymous',
        "",
        "acme,nps,8,2026-01-05T10:00:00Z,,,",
        "acme,nps,8,2026-01-05T10:00:00Z,,not json,",
        "acme,nps,8,2026-01-05T10:00:00Z,,,certain",
    )
    (first, anonymous), (second, verified), third, fourth = rows(file)
    assert (first.comment, first.context, anonymous) == ('He said "no",\nand left', {"page": "/x"}, True)
    assert (second.comment, second.context, verified) == (None, None, False)
    assert third.startswith(f"{file}:6: JSON is malformed")
    assert fourth == f"{file}:7: trust: must be verified or anonymous"


def test_what_is_no_text_is_refused_by_its_row(tmp_path: Path) -> None:
    """Nothing is imported with other letters than it had, and the rows beside it are; a map names the encoding."""
    lines = ["customer,kind,score,occurred_at,respondent,comment"]
    lines += [f"acme,nps,7,2026-01-05T10:00:00Z,{who}," for who in ("M\u00e4ki", "Virtanen", "M\u00f6ki")]
    file = written(tmp_path / "a.csv", *lines, encoding="cp1252")
    known = directory(customers={"acme": customer()})
    first, (second), third = read_csv(file, taking(known, datetime(2026, 2, 1, tzinfo=UTC)))
    assert (first, third) == (f"{file}:2: row: is not UTF-8", f"{file}:4: row: is not UTF-8")
    assert isinstance(second, FeedbackReceivedV1)
    found = read_csv(file, taking(known, datetime(2026, 2, 1, tzinfo=UTC)), Map(encoding="cp1252"))
    assert [getattr(one, "respondent", one) for one in found] == ["M\u00e4ki", "Virtanen", "M\u00f6ki"]


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    """It is told where it was opened; it swallows no more than a field can hold, and nothing in silence."""
    good = "acme,nps,8,2026-01-05T10:00:00Z,"
    file = written(
        tmp_path / "a.csv", "customer,kind,score,occurred_at,comment", good, good + '"He said', *([good] * 5_000)
    )
    found = rows(file)
    [fault] = [one for one in found if isinstance(one, str) and "a quote that is not closed?" in one]
    assert fault.startswith(f"{file}:3: row: ")
    assert len(found) > 1_000, "the rest goes on"


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("kind,score,occurred_at", "no column 'customer'"),
        ("customer,kind,score,occurred_at,colour", "unknown column 'colour'"),
        ("customer,kind,score,occurred_at,kind", "column 'kind' comes twice"),
        ("", "no column 'kind'"),
    ],
)
def test_a_header_that_is_wrong(tmp_path: Path, header: str, wrong: str) -> None:
    file = written(tmp_path / "a.csv", header, "x")
    with pytest.raises(WrongFile, match=wrong):
        _ = rows(file)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("columns: {Score: stars}", r"columns: .*'stars' is no field; fields are .*score"),
        ("values: {stars: {a: b}}", r"values: .*'stars' is no field"),
        ("given: {stars: 3}", r"given: .*'stars' is no field"),
        ("colour: red", r"colour: Extra inputs"),
        ("times: {format: unix, timezone: Mars/Olympus}", r"times.timezone: "),
        ("columns: [", r"not YAML"),
        ("encoding: klingon", r"encoding: .*'klingon' is no encoding"),
        ("[1]", r"m.yaml: : "),
    ],
)
def test_a_map_that_is_wrong(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(WrongFile, match=wrong):
        _ = read_map(str(written(tmp_path / "m.yaml", text)))


def test_the_maps_that_come_along(tmp_path: Path) -> None:
    mapped = read_map("delighted").with_given(["customer=acme", "touchpoint=support"])
    file = written(
        tmp_path / "a.csv",
        "id,person,survey_type,score,comment,permalink,created_at",
        "1,10,nps,0,,https://a.example.test/r/x,1713418460",
    )
    [(found, _)] = rows(file, mapped)
    assert (found.kind, found.score, found.respondent, found.customer) == ("nps", 0, "10", "acme")
    assert found.occurred_at == datetime(2024, 4, 18, 5, 34, 20, tzinfo=UTC)
    with pytest.raises(WrongFile, match=r"nobody: .*one of: delighted"):
        _ = read_map("nobody")
    with pytest.raises(WrongFile, match="no column 'survey_type', which the map names"):
        _ = rows(written(tmp_path / "b.csv", "id,score"), mapped)
    with pytest.raises(WrongFile, match="must be FIELD=VALUE"):
        _ = mapped.with_given(["colour=red"])


async def test_what_the_export_added_is_undone(fiilis: House, tmp_path: Path) -> None:
    """'+358... was another person than +358... after an export and an import; and a comment was another text."""
    names = ["+358401234567", "'+358401234567", "=A1", "ä;=1+1", "-", "plain"]
    words = ["=1+1", "well;\t=cmd|' /C calc'!A0", "''@me", 'said "=no"', "a\n-b", "it's fine"]
    for name, word in zip(names, words, strict=True):
        said_ = {"customer": "acme", "kind": "mood", "score": 3, "respondent": name, "comment": word}
        assert (await fiilis.post(said_)).status_code == 202
    await until(lambda: said(fiilis, len(names)))
    headers = {"Authorization": f"Bearer {fiilis.key}"}
    export = await fiilis.client.get("/v1/customers/acme/export.csv", params={"bom": "1"}, headers=headers)
    assert export.content.startswith(b"\xef\xbb\xbfid,")
    assert export.headers["cache-control"] == "no-store"
    wrong = await fiilis.client.get("/v1/customers/acme/export.csv", params={"bom": "yes"}, headers=headers)
    assert wrong.status_code == 422
    (tmp_path / "export.csv").write_bytes(export.content)
    moved = await imported(fiilis, tmp_path / "export.csv", "--set", "customer=borealis")
    assert (moved.code, moved.out.splitlines()) == (0, [f"{len(names)} answers imported, 0 rows refused"]), moved.err
    there = await until(lambda: said(fiilis, len(names), "borealis")) or []
    assert {(one["respondent"], one["comment"]) for one in there} == set(zip(names, words, strict=True))
