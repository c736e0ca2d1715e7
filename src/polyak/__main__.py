"""`python -m polyak` is `polyak`."""

import os
import sys

if __name__ == "__main__" and sys.path[:1] in (
    [""],
    [os.getcwd()],
):  # where Python looks first: a file there is nobody's package
    del sys.path[0]

from polyak.cli import program

if __name__ == "__main__":
    program()
