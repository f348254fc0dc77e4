"""Cells of a CSV file that a spreadsheet may open: no text is taken for a formula, in any dialect, and none is lost.

A spreadsheet may split a line at other characters than we wrote (a semicolon in half of Europe), and then what comes
after one is a cell of its own, quotes or not. So a text is made harmless wherever a cell could begin: an apostrophe
goes before what begins a formula, and before apostrophes that stand there already, so that taking one away again gives
the text as it was.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

BOM = "\ufeff"
"""Tells spreadsheets that a file is UTF-8."""
_BEGINS = r'[" ]*[=+\-@\t\r\n＝＋－＠]'
"""What begins a formula; a quote or a space before it is taken away by some."""
_HARMFUL = re.compile(rf"(^|[;|\t\r\n])(?='*{_BEGINS})")
_HARMLESS = re.compile(rf"(^|[;|\t\r\n])'(?='*{_BEGINS})")


def cell(value: object) -> str:
    """Return a value as a cell (RFC 4180): texts are quoted, and nothing in them is a formula."""
    match value:
        case None:
            return ""
        case str():
            return '"' + _HARMFUL.sub(r"\1'", value).replace('"', '""') + '"'
        case datetime():
            return str(msgspec.to_builtins(value))
        case _:
            return str(value)


def text_of(cell: str) -> str:
    """Return the text that `cell` was given, of the cell as it is read."""
    return _HARMLESS.sub(r"\1", cell) if "'" in cell else cell
