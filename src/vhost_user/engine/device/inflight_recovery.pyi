"""What was in flight when the process before us ended. Nothing of it is visible from Python; see vring_recovery.pyi."""
