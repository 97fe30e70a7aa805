"""The areas of a ring. Nothing of it is visible from Python; see vring.pyi."""
