"""Writes the JSON Schema of every message to docs/schemas; `make schemas` runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.wire.topics import TOPICS

FOLDER = Path(__file__).parents[2] / "docs/schemas"


def messages() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Return every `ce_type` and its message."""
    for topic in TOPICS:
        yield from topic.messages.items()


def schema(ce_type: str, message: type[msgspec.Struct]) -> str:
    """Return the text of a message's schema file."""
    body = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:fiilis:schema:{ce_type}",
        **msgspec.json.schema(message),
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write them all, and remove those of messages that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = {f"{ce_type}.json": schema(ce_type, message) for ce_type, message in messages()}
    for old in FOLDER.glob("*.json"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        _ = (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
