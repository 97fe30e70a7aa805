"""The device's side of a ring: chains, rings, requests, vrings, and the loop of a worker."""
