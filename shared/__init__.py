"""Mechanisms, each in one place: the bus, the database, the directory and the shell of every service."""
