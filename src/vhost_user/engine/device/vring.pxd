# C interface of vhost_user.engine.device.vring.
from vhost_user.engine.device.source cimport Source
from vhost_user.engine.device.vring_handling cimport Handling
from vhost_user.engine.device.vring_recovery cimport VringRecovery
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.device.vring_translation cimport VringTranslation

cdef class Vring:
    cdef VringState state           # what was set up, and whether it runs
    cdef Source source              # of chains, which the fast path is offered first
    cdef Handling handling          # of those that are for Python
    cdef readonly VringRecovery recovery
    cdef readonly VringTranslation translation
    cdef bint made
