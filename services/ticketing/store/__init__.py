"""All SQL of ticketing, by what it is about."""
