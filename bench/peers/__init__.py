"""Other stream processors doing the rolling NPS alone, each in an environment of its own (`make bench`)."""
