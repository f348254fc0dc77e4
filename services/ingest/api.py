"""POST /v1/feedback as a plain ASGI callable.

It carries the load of every widget, and a framework's route with a model of its own costs more than twice as much.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from starlette.types import Receive, Scope, Send

from services.ingest.dependencies import Dependencies
from services.ingest.domain import Posted, PostingRights, accept, parse, split
from services.ingest.limits import Bucket
from shared.directory.model import Key
from shared.errors import FieldError, Problem, invalid_fields
from shared.http.front import BODY_LIMIT
from shared.http.openapi import key_needed, problems
from shared.http.responses import address_of
from shared.runtime import metrics
from shared.runtime.logs import Log, parse_traceparent
from shared.wire.events import FeedbackReceivedV1

log = Log("ingest")

ITEMS = 1_000
_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
_TYPES = {b"application/json", b"text/plain"}
_METHODS = b"POST, OPTIONS"
_GZIP = 31
"""zlib's window bits for a gzip stream."""

_encoder = msgspec.json.Encoder()
_REJECTED = metrics.FEEDBACK.labels("unknown", "rejected")


_RESULTS = {
    "type": "object",
    "required": ["accepted", "rejected", "results"],
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "status"],
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "status": {"enum": ["accepted", "rejected"]},
                    "status_url": {"type": "string"},
                    "error": {"$ref": "#/components/schemas/Problem"},
                },
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def described() -> dict[str, Any]:
    """Return the OpenAPI path item of POST /v1/feedback."""
    _, parts = msgspec.json.schema_components([Posted])
    # JSON Schema's patterns are JavaScript's, where $ is the very end and \\Z a letter.
    posted = msgspec.json.decode(msgspec.json.encode(parts["Posted"]).replace(rb"\\Z", b"$"))
    return {
        "post": {
            "tags": ["ingest"],
            "summary": "Record answers: 202 when they are durable, each item of an array by itself.",
            "requestBody": {
                "required": True,
                "content": {
                    media: {"schema": {"oneOf": [posted, {"type": "array", "maxItems": ITEMS, "items": posted}]}}
                    for media in sorted(one.decode() for one in _TYPES)
                },
            },
            "security": key_needed("feedback", in_address=True),
            "responses": {
                "202": {"description": "Accepted and durable", "content": {"application/json": {"schema": _RESULTS}}},
                **{str(status): told for status, told in problems(400, 401, 403, 413, 415, 422, 429, 503).items()},
            },
        }
    }


class FeedbackEndpoint:
    """Takes answers: 202 when they are durable, never before."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        cors: tuple[tuple[bytes, bytes], ...] = ()
        try:
            method: str = scope["method"]
            if method == "OPTIONS":
                answer = self._preflight(headers)
            elif method != "POST":
                raise Problem(
                    405, "method-not-allowed", "Only POST records feedback", headers={"Allow": _METHODS.decode()}
                )
            else:
                key = self._key(scope, headers)
                cors = _allowed_origin(key, headers)
                buckets = self._deps.limits.of(key, address_of(scope))
                self._deps.buckets.take(buckets, 0, self._deps.clock.now())  # before the body is read
                body = await _body(receive, headers)
                answer = await self._take(body, key, headers, buckets)
        except Problem as problem:
            answer = _problem(problem)
        about = ((b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode()))
        sent = (*(about if answer.status != 204 else ()), *answer.headers, *cors)
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer.body})
        metrics.FEEDBACK_SECONDS.observe(time.perf_counter() - begun)

    def _key(self, scope: Scope, headers: dict[bytes, bytes]) -> Key:
        authorization = headers.get(b"authorization")
        query: bytes = scope["query_string"]
        if query:
            asked = parse_qs(query.decode("latin-1"), keep_blank_values=True)
            if unknown := asked.keys() - {"key"}:
                raise invalid_fields(*(FieldError(name[:63], "unknown parameter") for name in sorted(unknown)))
            given = asked.get("key", [])
            if authorization is None and given:
                key = self._deps.access.known_key(given[0], address_of(scope))
                if key.kind != "publishable":
                    raise Problem(403, "forbidden", "Only a publishable key may stand in the address")
                return key
        text = None if authorization is None else authorization.decode("latin-1")
        key = self._deps.access.find_key(text, address_of(scope))
        if key.kind == "secret" and not {"feedback", "admin"} & set(key.scopes):
            raise Problem(403, "forbidden", "The key has not that right", "This needs scope 'feedback'.")
        return key

    def _preflight(self, headers: dict[bytes, bytes]) -> _Answer:
        # A preflight carries no key: it is told what any of the publishable keys allows.
        origin = headers.get(b"origin", b"")
        known = any(origin.decode("latin-1") in key.origins for key in self._deps.access.revision.directory.keys)
        if not known:
            raise Problem(403, "origin-not-allowed", "No key allows this Origin")
        allow = (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", b"authorization, content-type, content-encoding, traceparent"),
            (b"access-control-max-age", b"7200"),
        )
        return _Answer(204, b"", headers=(*_cors(origin), *allow))

    async def _take(self, body: bytes, key: Key, headers: dict[bytes, bytes], buckets: list[Bucket]) -> _Answer:
        let = PostingRights(key, self._deps.access.revision.directory, self._deps.clock.now(), self._deps.signer)
        traceparent = parse_traceparent(headers.get(b"traceparent", b"").decode("latin-1"))
        if body.lstrip()[:1] == b"[":
            return await self._take_array(body, let, traceparent, buckets)
        try:
            self._deps.buckets.take(buckets, 1, let.now)
            answer = self._accept(body, let)
        except Problem:
            _REJECTED.inc()
            raise
        await self._deps.publishing.publish_one(answer, traceparent)
        return _Answer(202, _accepted(answer.id, self._deps.status_url(answer)))

    def _accept(self, item: bytes | msgspec.Raw, let: PostingRights) -> FeedbackReceivedV1:
        """Return the answer that an item is. Raises the 400, 403, 422, and the 429 for one person's many."""
        answer = accept(parse(item), let)
        if let.key.kind == "publishable" and answer.respondent is not None:
            self._deps.buckets.take(self._deps.limits.of_respondent(answer.customer, answer.respondent), 1, let.now)
        return answer

    async def _take_array(
        self, body: bytes, let: PostingRights, traceparent: str | None, buckets: list[Bucket]
    ) -> _Answer:
        items = split(body)
        if not items:
            raise Problem(422, "invalid", "The array is empty")
        if len(items) > ITEMS:
            raise Problem(422, "too-many-items", "The array is too long", f"{len(items)} items, at most {ITEMS}.")
        self._deps.buckets.take(buckets, len(items), let.now)
        accepted: list[FeedbackReceivedV1] = []
        results: list[dict[str, object]] = []
        for item in items:
            try:
                answer = self._accept(item, let)
            except Problem as problem:
                results.append({"id": _id_of(item), "status": "rejected", "error": problem.body()})
                _REJECTED.inc()
                continue
            accepted.append(answer)
            results.append({"id": answer.id, "status": "accepted"})
        refused: Mapping[int, Problem] = await self._deps.publishing.publish(accepted, traceparent) if accepted else {}
        if refused:
            taken = [result for result in results if result["status"] == "accepted"]
            for place, problem in refused.items():
                taken[place] |= {"status": "rejected", "error": problem.body()}
            _REJECTED.inc(len(refused))
        count = len(accepted) - len(refused)
        summary = {"accepted": count, "rejected": len(items) - count, "results": results}
        if count:
            return _Answer(202, _encoder.encode(summary))
        none = Problem(422, "invalid", "No item can be accepted", "Each result says what is wrong with its item.")
        return _Answer(422, _encoder.encode({**none.body(), **summary}), _PROBLEM)


def _accepted(id_: UUID, status_url: str | None) -> bytes:
    page = b"" if status_url is None else b',"status_url":%b' % _encoder.encode(status_url)
    return b'{"accepted":1,"rejected":0,"results":[{"id":"%b","status":"accepted"%b}]}' % (str(id_).encode(), page)


def _id_of(item: bytes | msgspec.Raw) -> str | None:
    """Return the id that a refused item named, so that the client finds it again."""
    try:
        named = json.loads(bytes(item))
    except (ValueError, RecursionError):
        return None
    match named:
        case {"id": str(id_)}:
            return id_[:64].encode("utf-8", "replace").decode()
        case _:
            return None


def _problem(problem: Problem) -> _Answer:
    headers = tuple((name.lower().encode(), value.encode()) for name, value in problem.headers.items())
    return _Answer(problem.status, _encoder.encode(problem.body()), _PROBLEM, headers)


def _cors(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    exposed = (b"access-control-expose-headers", b"retry-after, ratelimit, ratelimit-policy")
    return ((b"access-control-allow-origin", origin), exposed, (b"vary", b"Origin"))


def _allowed_origin(key: Key, headers: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the CORS headers of an allowed Origin; a missing one passes, and our own (the kiosk's). Raises the 403."""
    origin = headers.get(b"origin")
    if origin is None or key.kind == "secret":
        return ()
    ours = origin.partition(b"://")[2] == headers.get(b"host")
    if not ours and origin.decode("latin-1") not in key.origins:
        raise Problem(403, "origin-not-allowed", "The key does not allow this Origin")
    return _cors(origin)


async def _body(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """Read the body, decoded. Raises the 413 and 415."""
    content_type = headers.get(b"content-type", _JSON).partition(b";")[0].strip().lower()
    if content_type not in _TYPES:
        raise Problem(415, "unsupported-media-type", "Send application/json, or text/plain holding JSON")
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > BODY_LIMIT:
        raise _too_large()
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "broken-off", "The request broke off")
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            raise _too_large()
        if not message.get("more_body"):
            break
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding in {b"identity", b""}:
        return body
    if encoding != b"gzip":
        raise Problem(415, "unsupported-encoding", "Content-Encoding may be gzip")
    return _unzip(body)


def _unzip(body: bytes) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        # Never more than the limit is unpacked, whatever the stream claims.
        plain = stream.decompress(body, BODY_LIMIT + 1)
    except zlib.error as error:
        raise Problem(400, "not-gzip", "The body is not gzip", str(error)) from None
    if len(plain) > BODY_LIMIT:
        raise _too_large()
    if not stream.eof:
        raise Problem(400, "not-gzip", "The gzip stream is cut off")
    if stream.unused_data:
        raise Problem(400, "not-gzip", "Something follows the gzip stream", "Send one gzip member.")
    return plain


def _too_large() -> Problem:
    return Problem(413, "too-large", "The body is too large", f"At most {BODY_LIMIT} bytes, decoded.")
