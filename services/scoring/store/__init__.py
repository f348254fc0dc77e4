"""All SQL of scoring, by what it is about."""
