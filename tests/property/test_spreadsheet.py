"""A text in a CSV file is no formula in any spreadsheet, and comes back as it was."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.http.spreadsheet import cell, text_of

BEGINS = "=+-@\t\r＝＋－＠"
TEXTS = st.text(st.sampled_from("=+-@'\"; \t\r\n|,xä＝"), max_size=12) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=40
)


@given(TEXTS)
@example("'+358401234567")
@example("+358401234567")
@example("''=1+1")
@example("Thanks ;-)")
@example("a\n=cmd|' /C calc'!A0")
@example('x;"=1+1"')
@example("\t=1")
@example("")
def test_what_is_exported_is_read_back(text: str) -> None:
    """Exactly, also where somebody had written the apostrophe: '+358... is another person than +358..."""
    [[written]] = csv.reader(io.StringIO(cell(text) + "\r\n", newline=""), strict=True)
    assert text_of(written) == text


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(",;\t|"), st.booleans())
def test_no_cell_is_a_formula_in_any_dialect(texts: list[str], delimiter: str, quoted: bool) -> None:
    """Ours is the comma. A spreadsheet that splits elsewhere, or knows no quotes, finds no formula either."""
    line = ",".join(cell(text) for text in texts) + "\r\n"
    if delimiter == "," and not quoted:
        return  # every tool knows the quotes of its own comma
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, quoting=quoting)
    for row in rows:
        for found in row:
            assert found.removesuffix("\r\n").lstrip('" ')[:1] not in set(BEGINS), (line, row)


@pytest.mark.parametrize(("value", "written"), [(None, ""), (-5.5, "-5.5"), (True, "True"), ("-5.5", '"\'-5.5"')])
def test_numbers_stay_numbers(value: object, written: str) -> None:
    """A negative score is no formula."""
    assert cell(value) == written
