"""Notify pages the responsible architect, then the deputy, then the catch-all, until a person answers.

Owns the schema `notify`. Reads tickets.v1, alerts.v1, audit.v1 and directory.v1; writes pages.v1. Promises: the intent
to send is stored before each call and its result after it; a page always has a next moment at which somebody is paged,
until somebody acknowledges or the ticket needs it no more. It also asks respondents by mail whether it was put right,
and keeps the audit of all services.
"""
