"""What is set up of a vring; everything in it is for the engine alone."""

WHILE_STARTED: dict[str, tuple[str, str]]
"""Calls that are refused while a vring is started, with the reason and the rule."""
