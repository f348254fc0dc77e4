"""What runs a service: its shell, its health, its clock, its logs and metrics, and the loops over what is due."""
