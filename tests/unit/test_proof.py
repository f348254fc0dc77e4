"""Each channel says what proves that a message was taken; an answer of 2xx alone need not be the provider's."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from services.notify.channels import REACHED
from services.notify.channels.registry import providers
from shared.http.client import Answer
from shared.wire.signing import Signer

PROVIDERS = providers(Signer(["a-test-secret"]))
SIGN_IN = b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- proxy --> <!DOCTYPE html><html><title>Sign in</title></html>"
PAGES = [SIGN_IN, b"<html>", b"  <HTML lang=en>", b"<head><title>Moved</title>"]


def answer(status: int, said: object, **headers: str) -> Answer:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("name", "proof"),
    [
        ("webhook", answer(204, b"")),
        ("webhook", answer(200, b"OK", content_type="text/html")),
        ("webhook", answer(200, {"error": None})),
        ("teams", answer(202, b"")),
        ("teams", answer(200, b"1")),
        ("teams", answer(200, b"", x_ms_workflow_run_id="0858")),
        ("mattermost", answer(200, b"ok\n")),
        ("slack", answer(200, {"ok": True, "ts": "1764000000.1"})),
        ("ntfy", answer(200, {"id": "n1", "event": "message", "topic": "duty"})),
        ("pagerduty", answer(202, {"status": "success", "dedup_key": "k"})),
        ("sms", answer(201, {"sid": "SM1", "status": "queued", "error_code": None})),
        ("sms", answer(200, {"message_id": "m-1", "errors": []})),
        ("sms", answer(200, b"")),
        ("voice", answer(201, {"sid": "CA1", "status": "queued"})),
    ],
)
def test_what_proves_it(name: str, proof: Answer) -> None:
    assert PROVIDERS[name].answered(proof).kind in REACHED


@pytest.mark.parametrize(
    ("name", "said", "kind"),
    [
        ("teams", answer(200, b""), "temporary"),
        ("teams", answer(200, b"Summary or Text is required."), "temporary"),
        ("teams", answer(202, {"error": {"code": "WorkflowTriggerIsNotEnabled", "message": "off"}}), "temporary"),
        ("teams", answer(200, b"Webhook message delivery failed with error: HTTP error 403"), "permanent"),
        ("teams", answer(200, b"1 Webhook message delivery failed with error: HTTP error 429"), "temporary"),
        ("mattermost", answer(200, b""), "temporary"),
        ("mattermost", answer(200, {"id": "api.error", "message": "no such hook", "status_code": 404}), "permanent"),
        ("slack", answer(200, {"ok": False, "error": "token_revoked"}), "permanent"),
        ("slack", answer(200, b"ok"), "temporary"),
        ("ntfy", answer(200, {"id": "n1", "event": "keepalive"}), "temporary"),
        ("ntfy", answer(200, {"code": 40301, "http": 403, "error": "forbidden"}), "permanent"),
        ("ntfy", answer(200, [1]), "temporary"),
        ("pagerduty", answer(202, b""), "temporary"),
        ("pagerduty", answer(202, {"status": "throttle exceeded"}), "temporary"),
        ("pagerduty", answer(202, {"status": "invalid event", "message": "no"}), "permanent"),
        ("sms", answer(200, {"status": "failed"}), "temporary"),
        ("sms", answer(201, {"sid": "SM1", "status": "undelivered", "error_code": 30005}), "temporary"),
        ("sms", answer(200, {"success": False, "id": "m-1"}), "temporary"),
        ("voice", answer(200, {"errors": ["no credit"]}), "temporary"),
        *((name, answer(200, page, content_type="text/html"), "temporary") for name in PROVIDERS for page in PAGES),
        *((name, answer(202, SIGN_IN, x_ms_workflow_run_id="0858"), "temporary") for name in PROVIDERS),
    ],
)
def test_what_does_not(name: str, said: Answer, kind: str) -> None:
    """It is tried again, and whoever looks for the reason finds what was said; what lasts calls the next contact."""
    result = PROVIDERS[name].answered(said)
    assert result.kind == kind
    assert result.detail.startswith(f"HTTP {said.status}: ")


def test_only_a_page_for_people_is_one() -> None:
    for body in PAGES:
        assert answer(200, body).is_web_page
    for body in (b"", b"OK", b"<Response></Response>", b"<!-- html --> ok", b"<htmlish>", b'{"html": "<html>"}'):
        assert not answer(200, body).is_web_page
    begun = datetime.now(UTC)
    assert not answer(200, b"<!---->" * 10_000).is_web_page
    assert (datetime.now(UTC) - begun).total_seconds() < 1, "whatever a provider sends"
