"""Entropy device, virtio id 4 (virtio 1.4 section 5.4): one queue, no configuration space, no feature bits.

The device fills writable buffers and must use at least one byte of each.
"""

NUM_QUEUES = 1
