"""What split and packed rings share. Nothing of it is visible from Python; see vring.pyi."""
