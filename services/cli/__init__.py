"""What people run by hand: one module per command or group of commands."""
