"""Mechanisms that services share, a room for each: wire, bus, database, directory, rules, http, runtime, embedded."""
