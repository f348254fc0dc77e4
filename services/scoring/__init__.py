"""Scoring keeps rolling NPS and mood per customer and touchpoint, and notices a breach at once.

Owns the schema `scoring`. Reads feedback.v1 and directory.v1; writes alerts.v1. Promises: an accepted answer is counted
once, however often it comes; a window costs the same for a day or a year; only a live answer opens an alert.
"""
