"""``python -m vhost_user.bench`` is what ``./bench`` runs."""

import sys

from vhost_user.bench.program import main

if __name__ == "__main__":
    sys.exit(main())
