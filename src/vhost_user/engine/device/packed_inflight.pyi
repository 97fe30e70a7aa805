"""A packed ring and its area of requests in flight. Nothing of it is visible from Python; see vring.pyi."""
