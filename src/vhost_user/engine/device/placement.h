/* Where the calling thread runs. */
#ifndef VHOST_USER_PLACEMENT_H
#define VHOST_USER_PLACEMENT_H

#include <Python.h> /* first: it asks the C library for sched_getcpu and CPU_SET */
#include <sched.h>

/* Move to the next CPU that this thread may use, and leave it to the scheduler again: the set of CPUs is the same
 * afterwards (whoever changes it in the microseconds between is overruled). 0: there is no other CPU, or it is not known
 * (more than 1024), or not permitted. */
static inline int vu_move_to_next_cpu(void)
{
    cpu_set_t allowed, one;
    int here = sched_getcpu(), next = here;
    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 0;
    do
        next = next + 1 < CPU_SETSIZE ? next + 1 : 0;
    while (next != here && !CPU_ISSET(next, &allowed));
    if (next == here)
        return 0;
    CPU_ZERO(&one);
    CPU_SET(next, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        return 0;
    sched_setaffinity(0, sizeof allowed, &allowed);
    return 1;
}

#endif
