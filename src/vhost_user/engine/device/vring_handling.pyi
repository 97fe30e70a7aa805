"""Requests of a vring to a handler; everything in it is for the engine alone."""
