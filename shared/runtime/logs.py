"""Logs are events with fields, one line each, as text or JSON; an ERROR means that a person must look.

The trace id of the answer that is being handled is on every line, in every service: it travels as `traceparent`
(W3C Trace Context) in HTTP and Kafka headers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import sys
from collections.abc import Generator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def parse_traceparent(value: str | None) -> str | None:
    """Return the header if it is a valid `traceparent`, else None."""
    found = _TRACEPARENT.fullmatch(value or "")
    return value if found and int(found[1], 16) and int(found[2], 16) else None


def new_traceparent(trace_id: str) -> str:
    """Return a `traceparent` for a trace of 32 hex digits (an answer's id serves as its trace)."""
    return f"00-{trace_id}-{random.getrandbits(64):016x}-01"


def current_traceparent() -> str | None:
    """Return the `traceparent` of what is being handled now."""
    return _traceparent.get()


@contextlib.contextmanager
def tracing(traceparent: str | None) -> Generator[None]:
    """Put every log line and outgoing message of the block under this trace."""
    token = _traceparent.set(traceparent)
    try:
        yield
    finally:
        _traceparent.reset(token)


class Log:
    """Writes events with fields; never give it a secret, a token or a customer's comment."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Write detail for somebody who is looking for it."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: object) -> None:
        """Write what happened."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Write what is wrong and is being dealt with."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, failure: BaseException | None = None, **fields: object) -> None:
        """Write what a person must look at."""
        self._logger.error(event, exc_info=failure, extra={"fields": fields})


class _Formatter(logging.Formatter):
    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        traceparent = _traceparent.get()
        if traceparent is not None:
            fields["trace"] = traceparent[3:35]
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        failure = self.formatException(record.exc_info) if record.exc_info else None
        if self._json:
            line: dict[str, object] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
            line["event"] = record.getMessage()
            line |= {f"{name}_" if name in line else name: value for name, value in fields.items()}
            if failure:
                line["failure"] = failure
            return json.dumps(line, default=str, ensure_ascii=False)
        parts = " ".join(f"{key}={_one_line(value)}" for key, value in fields.items())
        text = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()} {parts}".rstrip()
        return f"{text}\n{failure}" if failure else text


def _one_line(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)


def quiet_kafka(*, unless: bool = False) -> None:
    """Let the client library say nothing: it calls an ERROR what it then tries again; what lasts we tell ourselves."""
    logging.getLogger("aiokafka").setLevel(logging.DEBUG if unless else logging.CRITICAL)


def set_up(*, level: str, form: Literal["text", "json"]) -> None:
    """Send every log line of the process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    quiet_kafka(unless=root.level <= logging.DEBUG)
    for noisy in ("alembic", "httpx", "httpcore", "uvicorn.access", "asyncio", "mail.log"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
