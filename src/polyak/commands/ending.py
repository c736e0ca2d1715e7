"""How a command ends: its exit code, and one line that says why."""

import contextlib
import errno
import sys

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as in every shell


BROKEN_PIPE = 141  # and of one whose reader went away before it was done


REFUSED = {  # what a disk says
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
}


def fail(text: str, code: int = 2) -> int:
    """Say why a command ends, in one line, and return its exit code."""
    with contextlib.suppress(OSError):
        print("polyak:", text, file=sys.stderr, flush=True)
    return code
