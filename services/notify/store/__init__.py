"""All SQL of notify, by what it is about."""
