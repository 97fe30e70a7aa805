# C interface of vhost_user.engine.memory.region_views.

cdef class RegionViews:
    cdef tuple mapped_regions       # read with a pin, or as `regions`; emptied when closed and nobody has one
