"""Drivers for devices, one a file.

Small Python objects on top of :class:`vhost_user.frontend.VirtioDriver`.
"""
