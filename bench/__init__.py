"""Benchmarks: each a command of its own, against a peer in the same run where there is one."""
