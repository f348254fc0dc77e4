"""Decisions of notify: pure, time is an argument."""
