"""Guest memory as the device side sees it: mapped regions, the dirty log, the survival of SIGBUS."""
