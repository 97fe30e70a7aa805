"""How a vring starts and stops; everything in it is for the engine alone."""
