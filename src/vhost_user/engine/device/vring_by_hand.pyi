"""Requests of a vring by hand; everything in it is for the engine alone."""
