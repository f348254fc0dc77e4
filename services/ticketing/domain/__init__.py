"""Pure decisions of ticketing: the ticket, its clocks, what a desk makes of it, and how it is told."""
