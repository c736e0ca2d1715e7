"""`python -m polyak` is `polyak`."""

import sys

from polyak.cli import main

if __name__ == "__main__":
    sys.exit(main())
