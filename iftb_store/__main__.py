"""``python -m iftb_store``: the same as the command ``iftb-store``."""

import sys

from iftb_store.cli import main

if __name__ == "__main__":
    sys.exit(main())
