"""Notify over HTTP, by what it is about."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from services.notify.answers import Answers
from services.notify.api import audit, calendars, callbacks, contacts, oncall, pages, proactive, rota
from services.notify.history import History
from services.notify.rounds.watch import Watch
from shared.database.pool import Database
from shared.directory.access import Access
from shared.http.client import Outbound
from shared.http.doors import new_router
from shared.runtime.clock import Clock
from shared.wire.signing import Signer


def build_router(
    database: Database,
    access: Access,
    clock: Clock,
    signer: Signer,
    answers: Answers,
    watch: Watch,
    outbound: Outbound,
    *,
    public_url: Callable[[], str],
    escalate: Callable[[], None],
    sent: Callable[[], None],
) -> APIRouter:
    """Return notify's part of the HTTP interface. `escalate`, `sent`: called when a page, or a message, may be due."""
    router = new_router(tags=["notify"])
    router.include_router(pages.build_router(database, access, clock, signer, answers, public_url, escalate, sent))
    history = History(database)
    router.include_router(oncall.build_router(database, access, clock, history, watch))
    router.include_router(calendars.build_router(database, access, clock, signer, history, public_url))
    router.include_router(rota.build_router(database, access, clock, escalate, sent))
    router.include_router(contacts.build_router(database, access, clock, sent))
    router.include_router(proactive.build_router(database, access, clock))
    router.include_router(audit.build_router(database, access))
    router.include_router(
        callbacks.build_router(database, access, clock, signer, answers, outbound, public_url, escalate, sent)
    )
    return router
