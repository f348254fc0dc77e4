"""Ticketing makes one ticket of one problem, with everything that the person who takes it needs.

Owns the schema `ticketing`. Reads alerts.v1, pages.v1 and directory.v1; writes tickets.v1 and audit.v1; calls service
desks and the directory's webhooks. Promises: one open ticket per problem, whatever comes twice, and one in its desk;
nothing about a ticket is forgotten until the directory's retention, or a person's wish, says so: its timeline is only
appended to.
"""
