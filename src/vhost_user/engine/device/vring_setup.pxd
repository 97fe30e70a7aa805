# C interface of vhost_user.engine.device.vring_setup.
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.memory.guest_memory cimport GuestMemory
from vhost_user.engine.memory.iotlb cimport Iotlb

cdef object must_be_stopped(VringState state, str call)
cdef object set_features(VringState state, object packed, object event_idx, object in_order, object notify_on_empty)
cdef object set_size(VringState state, object size)
cdef object set_base(VringState state, object value)
cdef object base(VringState state)
cdef object set_indirect_limit(VringState state, object value)
cdef object set_addresses(VringState state, object descriptor, object driver, object device, object log_address)
cdef object set_memory(VringState state, GuestMemory memory, Iotlb iotlb)
cdef object reattach(VringState state)
cdef void settle_in(VringState state) noexcept
cdef object track(VringState state)
cdef object missing(VringState state)
