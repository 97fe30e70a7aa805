# C interface of vhost_user.engine.device.vring_by_hand.
from vhost_user.engine.device.request cimport Request
from vhost_user.engine.device.vring_handling cimport Handling
from vhost_user.engine.device.vring_state cimport VringState

cdef object pop(Handling handling, object vring)
cdef object list_popped(VringState state, Request request)
cdef object add_used(VringState state, object request, object written)
cdef object add_used_head(VringState state, object head, object written)
cdef object put_back(VringState state, Request request)
cdef object needs_notification(VringState state)
cdef object signal_used_queue(VringState state)
cdef object disable_notification(VringState state)
