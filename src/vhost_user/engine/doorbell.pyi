"""Doorbells of the other side: which descriptors may be one; ringing and draining them without ever waiting.

Nothing here is for Python: vrings, bitmap and worker use it. How each kind is accessed is in doorbell.h.
"""
