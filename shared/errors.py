"""The families of failure, and the problem that a client is told (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass


class Invalid(Exception):
    """A record that can never succeed: it goes to the dead letters with this reason, and the consumer goes on."""

    def __init__(self, reason: str, detail: str, *, index: int = 0) -> None:
        """`reason` is a stable slug; `index` is the record's place in the batch that the handler was given."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.index = index


class Transient(Exception):
    """Something outside is away for now (database, Kafka): hold what is in hand and try again with backoff."""

    def __init__(self, why: str, *, of: str = "what is outside") -> None:
        """`of` is who is away, as log lines and `/readyz` name it: Kafka, PostgreSQL."""
        super().__init__(why)
        self.of = of


class Misconfigured(Exception):
    """The process cannot do its work as it was set up; the message says which setting to change."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field of a request."""

    path: str
    detail: str


class Problem(Exception):
    """An answer `application/problem+json`."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str | None = None,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        """`code` is a stable slug that clients may test for; `detail` says what to do next."""
        super().__init__(f"{status} {code}: {detail or title}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def body(self) -> dict[str, object]:
        """Return the problem's JSON members."""
        body: dict[str, object] = {
            "type": f"urn:fiilis:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail or self.title,
            "code": self.code,
        }
        if self.errors:
            body["errors"] = [{"path": e.path, "detail": e.detail} for e in self.errors]
        return body


def invalid_fields(*errors: FieldError) -> Problem:
    """Return the 422 that names the bad fields."""
    detail = "; ".join(f"{e.path}: {e.detail}" for e in errors)
    return Problem(422, "invalid", "The request has invalid fields", detail, errors=errors)


def not_found(what: str, name: str) -> Problem:
    """Return the 404 for a thing that is not there, or not for this key."""
    return Problem(404, "not-found", f"No such {what}", f"There is no {what} {name!r} that this key may see.")
