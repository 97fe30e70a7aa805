"""The split virtqueue, device side. Nothing of it is visible from Python; see vring.pyi."""
