"""``python -m tools.comparison`` is what ``./bench`` runs."""

import sys

from tools.comparison.program import main

if __name__ == "__main__":
    sys.exit(main())
