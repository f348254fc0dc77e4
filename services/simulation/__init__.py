"""Simulated traffic (`--simulate 5/s`): answers that a person believes, posted like those of any other client."""
