"""Ticketing makes one ticket of one problem, with everything that the person who takes it needs.

Owns the schema `ticketing`. Reads alerts.v1, pages.v1 and directory.v1; writes tickets.v1. Promises: one open ticket
per problem, whatever comes twice; nothing about a ticket is forgotten: its timeline is only appended to.
"""
