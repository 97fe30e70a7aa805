"""Where a ring lies: its three areas in guest memory. Nothing of it is visible from Python; see vring.pyi."""
