"""What `make demo` adds to the product: an example directory, simulated answers, and an inbox to click in.

Nothing in `services` or `shared` needs it.
"""
