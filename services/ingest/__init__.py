"""Ingest takes answers and makes them durable.

Owns a spool. Reads directory.v1; writes feedback.v1. Promises: 202 only when Kafka has the answer on every in-sync
replica, or while Kafka is away the spool in PostgreSQL, which is forwarded; otherwise 503 and Retry-After, and a repeat
with the same id is harmless.
"""
