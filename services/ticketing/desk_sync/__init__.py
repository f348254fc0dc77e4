"""Keeps tickets and service desks alike: what a desk lacks is told it, and what changed there is read back.

`supervisor` has a `loop` for each desk, of which one process at a time has the lease. A turn of it claims rows that are
due, and takes one step after another for each (`ticket`, by the pure `step`) until nothing is left: `push` writes to
the desk, `pull` takes over what it has. `circuit` leaves a desk alone that fails.
"""
