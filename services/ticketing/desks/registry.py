"""The drivers by the directory's word for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.ticketing.desks import Desk, Failed
from services.ticketing.desks.api import Budget
from services.ticketing.desks.freshservice import Freshservice
from services.ticketing.desks.glpi import Glpi
from services.ticketing.desks.jira import Jira
from services.ticketing.desks.redmine import Redmine
from services.ticketing.desks.rt import RequestTracker
from services.ticketing.desks.servicenow import ServiceNow
from services.ticketing.desks.webhook import SignedWebhook
from services.ticketing.desks.zammad import Zammad
from services.ticketing.desks.zendesk import Zendesk
from shared.directory import model
from shared.http.client import Outbound, Refused

DESKS: Mapping[str, Callable[[str, model.Desk, Mapping[str, str], Outbound, Budget], Desk]] = {
    "freshservice": Freshservice,
    "glpi": Glpi,
    "jira": Jira,
    "redmine": Redmine,
    "rt": RequestTracker,
    "servicenow": ServiceNow,
    "webhook": SignedWebhook,
    "zammad": Zammad,
    "zendesk": Zendesk,
}


def build(name: str, settings: model.Desk, outbound: Outbound, budget: Budget, environ: Mapping[str, str]) -> Desk:
    """Return the driver of a desk with its secrets. Raises Failed where a setting or a secret is missing."""
    driver = DESKS.get(settings.type)
    if driver is None:
        raise Failed("permanent", f"there is no driver for a desk of type {settings.type}")
    secrets: dict[str, str] = {}
    for purpose, variable in (("token", settings.token_env), ("user", settings.user_env)):
        if variable is None:
            continue
        secrets[purpose] = environ.get(variable, "").strip()  # a file's last line break is no part of a secret
        if not secrets[purpose]:
            raise Failed("permanent", f"environment variable {variable} is not set")
    try:
        return driver(name, settings, secrets, outbound.trusting(settings.ca_file), budget)
    except Refused as refused:
        raise Failed("permanent", str(refused)) from None
