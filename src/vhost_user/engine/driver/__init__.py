"""The driver's side of a ring: the memory of a front-end, queues, and what makes load."""
