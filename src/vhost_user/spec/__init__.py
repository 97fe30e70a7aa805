"""What the virtio and vhost-user specifications say, as data: no I/O, no state."""
