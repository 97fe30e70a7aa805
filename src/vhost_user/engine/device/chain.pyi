"""Descriptor chains as plain C data. Nothing of it is visible from Python; see request.pyi."""
