"""Where the requests of a vring come from; everything in it is for the engine alone."""
