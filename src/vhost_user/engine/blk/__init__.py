"""Fast paths of the block device, which serve a request without Python."""
