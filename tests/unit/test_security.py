"""Nobody makes a link or a key of ours, uses one for something else, or uses one for ever."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from services.ticketing.desks import BadSignature
from services.ticketing.desks.signatures import check_standard
from shared.http.webhooks import NoSecret, listed_secrets, signed_headers, signing_secrets
from shared.wire.signing import (
    MAX_TOKEN,
    BadSeal,
    BadToken,
    ExpiredToken,
    Purpose,
    Signer,
    key_hash,
    new_key,
    seal,
    unseal,
)
from tests.support.build import NOW, ago

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
SIGNER = Signer(["new secret", "old secret"])
FACTS = {"page": "01a1", "person": "architect-1", "turn": 3}
TOMORROW = NOW + timedelta(days=1)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_link_says_what_was_signed_for_its_purpose_only(purpose: Purpose) -> None:
    """The link to my ticket's status acknowledges nobody's page."""
    token = SIGNER.sign(purpose, FACTS, expires=TOMORROW)
    assert {name: SIGNER.verify(purpose, token, now=NOW)[name] for name in FACTS} == FACTS
    for other in PURPOSES:
        if other != purpose:
            with pytest.raises(BadToken):
                _ = SIGNER.verify(other, token, now=NOW)


def test_a_link_is_over_when_it_says_so() -> None:
    """Expired, it still tells whose it was, so that a fresh one can be sent to that person."""
    token = SIGNER.sign("acknowledge", FACTS, expires=NOW)
    assert SIGNER.verify("acknowledge", token, now=NOW.replace(microsecond=0))
    with pytest.raises(ExpiredToken) as caught:
        _ = SIGNER.verify("acknowledge", token, now=NOW + timedelta(seconds=1))
    assert caught.value.facts["person"] == "architect-1"


def test_a_link_cannot_extend_its_own_life() -> None:
    """What the facts call `exp` never replaces the real one."""
    token = SIGNER.sign("survey", {"exp": 4_000_000_000}, expires=ago(days=1))
    with pytest.raises(ExpiredToken):
        _ = SIGNER.verify("survey", token, now=NOW)


def test_a_secret_is_replaced_without_a_gap() -> None:
    """Old links work as long as the old secret is listed; new ones need the new one only."""
    before, both, after = Signer(["old"]), Signer(["new", "old"]), Signer(["new"])
    old, new = (s.sign("status", FACTS, expires=TOMORROW) for s in (before, both))
    assert both.verify("status", old, now=NOW)
    assert after.verify("status", new, now=NOW)
    for signer, token in ((before, new), (after, old)):
        with pytest.raises(BadToken):
            _ = signer.verify("status", token, now=NOW)


@pytest.mark.parametrize("secrets", [[], [""], ["good", ""]])
def test_no_secret_signs_nothing(secrets: list[str]) -> None:
    """An empty secret would let everybody sign."""
    with pytest.raises(ValueError, match="no signing secret"):
        _ = Signer(secrets)


def test_every_changed_character_is_noticed() -> None:
    token = SIGNER.sign("acknowledge", FACTS, expires=TOMORROW)
    for place, character in enumerate(token):
        # The last character of each part may differ in bits that base64 leaves out.
        if place + 1 < len(token) and token[place + 1] != ".":
            changed = token[:place] + ("A" if character != "A" else "B") + token[place + 1 :]
            with pytest.raises(BadToken):
                _ = SIGNER.verify("acknowledge", changed, now=NOW)


@given(st.text(st.characters(codec="utf-8"), max_size=100) | st.from_regex(r"[\w.-]{0,60}", fullmatch=True))
def test_whatever_else_stands_in_a_link_is_a_bad_token(token: str) -> None:
    """Who guesses gets a page that says no, never an error of ours."""
    with pytest.raises(BadToken):
        _ = SIGNER.verify("status", token, now=NOW)


def test_too_long_a_token_is_refused_unread() -> None:
    """Also one of ours: no link that we make is that long."""
    noise = "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(64))
    for token in (SIGNER.sign("status", {"x": noise}, expires=TOMORROW), "A" * (MAX_TOKEN + 1)):
        assert len(token) > MAX_TOKEN
        with pytest.raises(BadToken):
            _ = SIGNER.verify("status", token, now=NOW)


# ---- keys


def test_keys_are_random_and_kept_as_hashes() -> None:
    """The directory never holds a key, only the digest that the contract names."""
    keys = {new_key("publishable") for _ in range(50)} | {new_key("secret") for _ in range(50)}
    assert len(keys) == 100
    assert {key[:3] for key in keys} == {"pk_", "sk_"}
    assert all(len(base64.urlsafe_b64decode(key[3:] + "=")) == 32 for key in keys)
    one = keys.pop()
    assert key_hash(one) == hashlib.sha256(one.encode()).hexdigest()


# ---- webhooks


def test_webhook_signature_is_the_standards_vector() -> None:
    """Any Standard Webhooks library verifies what we send (vector of the reference library)."""
    hook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    signature = hook.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_contact_without_a_secret_has_one_of_its_own() -> None:
    """Derived from ours and the address: the same each time, another for another address or installation."""
    one = SIGNER.webhook_secret("https://hooks.example.test/page")
    assert one == Signer(["new secret"]).webhook_secret("https://hooks.example.test/page")
    assert one != SIGNER.webhook_secret("https://hooks.example.test/page2")
    assert one != Signer(["old secret"]).webhook_secret("https://hooks.example.test/page")
    assert one.startswith("whsec_")
    assert len(base64.b64decode(one.removeprefix("whsec_"))) == 32
    assert Webhook(one).sign("id", NOW, "{}").startswith("v1,")


def test_a_secret_of_webhooks_is_replaced_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """While both are listed each request is signed with both: the other side may know either."""
    url, now, body = "https://hooks.example.test/page", datetime.now(UTC), b'{"type": "page"}'
    old, both, new = (Signer(secrets) for secrets in (["old secret"], ["new secret", "old secret"], ["new secret"]))
    headers = signed_headers(signing_secrets(url, None, both), "id", now, body)
    for known in (old, new):
        Webhook(known.webhook_secret(url)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(Signer(["another"]).webhook_secret(url)).verify(body, headers)
    named = [Signer([name]).webhook_secret("x") for name in ("one", "two")]
    monkeypatch.setenv("HOOK", ", ".join(named))
    headers = signed_headers(signing_secrets(url, "HOOK", both), "id", now, body)
    for secret in named:
        Webhook(secret).verify(body, headers)
    check_standard(headers, body, f"{named[1]},{Signer(['other']).webhook_secret('x')}", now)
    with pytest.raises(BadSignature):
        check_standard(headers, body, Signer(["other"]).webhook_secret("x"), now)
    for wrong in ("", " , ", "whsec_", f"{named[0]},whsec_="):
        with pytest.raises(NoSecret):
            listed_secrets(wrong, "HOOK")


@given(st.binary(max_size=300))
def test_a_seal_is_opened_by_its_secret_alone(content: bytes) -> None:
    """And two of the same content have nothing in common."""
    one, two = seal("secret", content), seal("secret", content)
    assert one != two
    assert unseal("secret", one) == unseal("secret", two) == content
    data = base64.b64decode(one)
    for wrong, sealed in (("other", data), ("secret", data[:-1] + bytes([data[-1] ^ 1])), ("secret", data[:20])):
        with pytest.raises(BadSeal):
            unseal(wrong, base64.b64encode(sealed).decode())
