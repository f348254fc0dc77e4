"""Signatures of providers, by the examples of their own documentation; and what fits into an SMS or a call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace as changed

from services.notify.channels import Notice
from services.notify.channels.gateway import answering, asking, sms_text
from services.notify.channels.mattermost import escaped as for_mattermost
from services.notify.channels.signatures import bears, signed_by_slack, signed_by_twilio
from services.notify.channels.slack import escaped as for_slack
from services.notify.domain.texts import AnswerOptions, page_words
from shared.directory.model import Contact, Person
from tests.support import build

_SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
_SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&"
    b"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&"
    b"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&"
    b"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
_SLACK_SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"


def test_twilio_signs_the_address_and_the_form() -> None:
    """The example of Twilio's documentation; another token, address or form has another signature."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    good = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert signed_by_twilio("12345", url, form, good)
    assert not signed_by_twilio("12346", url, form, good)
    assert not signed_by_twilio("12345", url[:-1], form, good)
    assert not signed_by_twilio("12345", url, {**form, "Digits": "1"}, good)
    assert not signed_by_twilio("12345", url, form, "")
    assert not signed_by_twilio("12345", url, form, "ä" * 28)


def test_slack_signs_the_time_and_the_body() -> None:
    """The example of Slack's documentation; what is older than five minutes may be a recording."""
    at = datetime.fromtimestamp(1531420618, UTC)
    good = (_SLACK_SECRET, "1531420618", _SLACK_BODY, _SLACK_SIGNATURE)
    assert signed_by_slack(*good, at + timedelta(minutes=5))
    assert not signed_by_slack(*good, at + timedelta(minutes=5, seconds=1))
    assert not signed_by_slack(*good, at - timedelta(minutes=5, seconds=1))
    assert not signed_by_slack(_SLACK_SECRET, "1531420618", _SLACK_BODY + b"x", _SLACK_SIGNATURE, at)
    assert not signed_by_slack("another", "1531420618", _SLACK_BODY, _SLACK_SIGNATURE, at)
    for stamp in ("", "soon", "-1", "\u0661", "9" * 400):
        assert not signed_by_slack(_SLACK_SECRET, stamp, _SLACK_BODY, _SLACK_SIGNATURE, at)


def test_a_bearer_token_is_the_whole_header() -> None:
    assert bears("abc", "Bearer abc")
    assert not any(bears("abc", header) for header in ("", "abc", "Bearer abcd", "Bearer ", "bearer ä"))


def _notice(url: str, *, page: bool = True, summary: str = "Mood 1 of 4 at support") -> Notice:
    one = changed(build.page(), summary=summary)
    contact = Contact("sms", "+358401234567")
    return Notice(
        key="key",
        kind="page",
        words=page_words(one, AnswerOptions(url=url, code="0042", level=1, person="architect-1")),
        person=Person("architect-1", "First", "UTC", "en", contacts=(contact,)),
        contact=contact,
        directory=build.directory(),
        at=build.NOW,
        page=one if page else None,
        acknowledge_url=url if page else None,
        code="0042" if page else "",
    )


def test_a_link_that_does_not_fit_into_an_sms_is_left_out() -> None:
    """Half a link helps nobody; the code is always there."""
    assert sms_text(_notice("https://x.test/a/b")).endswith(" Reply 0042 to take it. https://x.test/a/b")
    long = sms_text(_notice(f"https://x.test/a/{'b' * 400}", summary="x" * 300))
    assert long.endswith(" Reply 0042 to take it.")
    assert len(long) <= 480
    assert "Reply" not in sms_text(_notice("https://x.test", page=False))


def test_what_customers_write_stays_text() -> None:
    """No element of a call, no mention of a whole channel, no link under another name."""
    assert "<Dial>" not in asking("<Dial>+358900</Dial>", 'https://x.test/?a="&b')
    assert answering(None) == "<Response></Response>"
    assert answering("a\x00<b>") == "<Response><Message>a&lt;b&gt;</Message></Response>"
    assert for_slack("<!channel> & <https://evil.test|here>") == "&lt;!channel&gt; &amp; &lt;https://evil.test|here&gt;"
    said = for_mattermost("@channel [here](https://evil.test) ![x](https://evil.test/x.png)")
    assert "@channel" not in said
    assert "[here]" not in said
    assert "![" not in said.replace("\\[", "")
