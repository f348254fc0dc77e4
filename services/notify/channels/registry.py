"""Every channel by the name that contacts have."""

from __future__ import annotations

from collections.abc import Mapping

from services.notify.channels import Channel
from services.notify.channels.email import EmailChannel, Mailer
from services.notify.channels.gateway import Sms, Voice
from services.notify.channels.http import HttpChannel, Provider
from services.notify.channels.mattermost import Mattermost
from services.notify.channels.ntfy import Ntfy
from services.notify.channels.pagerduty import PagerDuty
from services.notify.channels.slack import Slack
from services.notify.channels.teams import Teams
from services.notify.channels.webhook import Webhook
from shared.http.client import Outbound
from shared.wire.signing import Signer


def providers(signer: Signer) -> Mapping[str, Provider]:
    """Return who is spoken to over HTTP, by the name of the contact's way."""
    return {
        "webhook": Webhook(signer),
        "sms": Sms(),
        "voice": Voice(),
        "slack": Slack(),
        "teams": Teams(),
        "mattermost": Mattermost(),
        "ntfy": Ntfy(),
        "pagerduty": PagerDuty(),
    }


def build_channels(mailer: Mailer, outbound: Outbound, signer: Signer, seconds: float) -> Mapping[str, Channel]:
    """Return the drivers; `seconds`: how long the other side may take."""
    over_http = {name: HttpChannel(provider, outbound, seconds) for name, provider in providers(signer).items()}
    return {"email": EmailChannel(mailer), **over_http}
