"""From a checked document to what is published: every default filled in, durations in seconds."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from shared.directory import model
from shared.rules.document import built_in_rules

if TYPE_CHECKING:
    from shared.directory import document
    from shared.rules.document import Rule


def resolve(checked: document.Document) -> model.Directory:
    """Return the model of a checked document: every default filled in, durations in seconds."""
    company = checked.company
    smtp, slack = checked.channels.smtp, checked.channels.slack
    return model.Directory(
        company=company.name,
        timezone=company.timezone,
        language=company.language,
        people={id: _person(id, person, company) for id, person in checked.people.items()},
        customers=_customers(checked),
        escalations={name: _escalation(name, escalation) for name, escalation in checked.escalations.items()},
        touchpoints=tuple(checked.touchpoints),
        metrics={name: model.Metric(metric.unit, metric.better) for name, metric in checked.metrics.items()},
        rules=tuple(built_in_rules() if checked.rules is None else map(_rule, checked.rules)),
        keys=tuple(map(_key, checked.keys)),
        root_causes=checked.root_causes,
        sla={severity: model.Sla(sla.first_response, sla.resolve) for severity, sla in checked.sla.items()},
        webhooks=tuple(map(_webhook, checked.webhooks)),
        desks={name: model.Desk(**desk.model_dump()) for name, desk in checked.desks.items()},
        retention=checked.retention,
        revote_after=checked.revote_after,
        smtp=model.Smtp(**smtp.model_dump()) if smtp is not None else None,
        sms=_gateway(checked.channels.sms),
        voice=_gateway(checked.channels.voice),
        slack=model.Slack(**slack.model_dump()) if slack is not None else None,
        ntfy_token_env=checked.channels.ntfy.token_env if checked.channels.ntfy is not None else None,
        pagerduty_url=checked.channels.pagerduty.url,
        comments_in_sms=checked.channels.comments_in_sms,
        schedules={name: _schedule(name, schedule, company) for name, schedule in checked.schedules.items()},
        heartbeats={name: model.Heartbeat(**beat.model_dump()) for name, beat in checked.heartbeats.items()},
        watchdog=model.Watchdog(**checked.watchdog.model_dump()) if checked.watchdog is not None else None,
        team=tuple(checked.team),
    )


def _person(id: str, person: document.Person, company: document.Company) -> model.Person:
    return model.Person(
        id=id,
        name=person.name,
        timezone=person.timezone or company.timezone,
        language=person.language or company.language,
        title=person.title,
        photo=person.photo,
        quiet_hours=person.quiet_hours,
        holidays=person.holidays,
        absences=tuple(model.Absence(_begin(one.start), _end(one.until)) for one in person.absences),
        digest_at=person.digest_at,
        contacts=tuple(map(_contact, person.contacts)),
    )


def _begin(moment: str) -> str:
    return moment if "T" in moment else f"{moment}T00:00"


def _end(moment: str) -> str:
    return moment if "T" in moment else f"{date.fromisoformat(moment) + timedelta(days=1)}T00:00"


def _contact(contact: document.Contact) -> model.Contact:
    channel, address = contact.way()
    severities = tuple(contact.severities or ())
    return model.Contact(channel, address, contact.secret_env, severities, contact.after, contact.ca_file)


def _schedule(name: str, schedule: document.Schedule, company: document.Company) -> model.Schedule:
    layers = tuple(map(_layer, schedule.layers))
    return model.Schedule(name, schedule.timezone or company.timezone, layers, schedule.holidays)


def _layer(layer: document.Layer) -> model.Layer:
    people, restrict = tuple(layer.people), tuple(layer.restrict)
    return model.Layer(layer.rotation, layer.start, people, layer.every, layer.turn, restrict, layer.until)


def _gateway(gateway: document.Gateway | None) -> model.Gateway | None:
    return None if gateway is None else model.Gateway(**gateway.model_dump())


def _escalation(name: str, escalation: document.Escalation) -> model.Escalation:
    steps = tuple(model.Step(step.page, float(step.ack_within)) for step in escalation.steps)
    stalls = float(escalation.acknowledged_for)
    return model.Escalation(name, steps, escalation.catch_all, escalation.repeat, stalls)


def _rule(rule: Rule) -> model.Rule:
    return model.Rule(
        name=rule.name,
        when=rule.when,
        severity=rule.severity,
        touchpoint=rule.touchpoint,
        per_touchpoint=rule.per is not None,
        audience=rule.audience,
        trust=rule.trust,
        max_age=rule.max_age,
        cooldown=rule.cooldown or 0,
        enabled=rule.enabled,
    )


def _customers(checked: document.Document) -> dict[str, model.Customer]:
    first_escalation = next(iter(checked.escalations), "")
    return {
        id: model.Customer(
            id=id,
            name=customer.name,
            architect=customer.architect,
            escalation=customer.escalation or first_escalation,
            timezone=customer.timezone or checked.company.timezone,
            language=customer.language or checked.company.language,
            deputy=customer.deputy,
            touchpoints=tuple(customer.touchpoints or checked.touchpoints),
            business_hours=None if customer.business_hours is None else tuple(customer.business_hours),
            holidays=customer.holidays,
            closed=tuple(sorted(set(customer.closed))),
            goals=customer.goals,
            touchpoint_goals=customer.touchpoint_goals,
            check_in=customer.check_in,
            rules=tuple(map(_rule, customer.rules)),
            desk=customer.desk,
        )
        for id, customer in checked.customers.items()
    }


def _key(key: document.Key) -> model.Key:
    return model.Key(
        id=key.id,
        kind=key.kind,
        sha256=key.sha256,
        customers=(key.customer,) if key.customer is not None else tuple(key.customers or ()),
        scopes=tuple(key.scopes),
        origins=tuple(key.origins),
        revoked=key.revoked,
        audience=key.audience or "customer",
        not_before=key.not_before,
        expires=key.expires,
        limits=None if key.limits is None else model.KeyLimits(key.limits.per_minute, key.limits.burst),
    )


def _webhook(hook: document.Webhook) -> model.Webhook:
    return model.Webhook(hook.url, hook.secret_env, tuple(hook.customers or ()), tuple(hook.events or ()), hook.ca_file)
