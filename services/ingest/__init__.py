"""Ingest takes answers and makes them durable.

Owns no tables. Reads directory.v1; writes feedback.v1. Promises: 202 only when Kafka has the answer on every in-sync
replica; otherwise 503 and Retry-After, and a repeat with the same id is harmless.
"""
