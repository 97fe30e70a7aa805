"""``python -m vhost_user.cli`` is ``vhost-user``."""

import sys

from vhost_user.cli import main

sys.exit(main())
