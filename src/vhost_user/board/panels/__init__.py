"""What a board shows of a device that nobody has said more of: one file for each device type, by its name.

Each has a function ``controls(device)``, which gives a list of controls, and an empty one for a device that
it does not know.
"""
