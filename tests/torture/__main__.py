"""Thousands of attacks, and one table of what came of them: `python tests/torture [SECONDS]`, or `make torture`.

    folders       hand-made cases and a fuzzer that knows the structure of every file of a run folder, each read,
                  evaluated and resumed in a process that is watched by an audit hook
    kills         SIGKILL, SIGTERM, SIGINT and SIGHUP at random moments of a run, which must end as one never stopped
    disks         a tiny disk and a limit on files: whatever fails, what was saved stays
    environments  every way to misbehave, in this process and in workers

tried = done + refused. A case is lost where a run or a user's file is gone, executed where a program, an import or a
connection came of it, outside where something else was written, hung where it took longer than SLOW seconds. The
program exits with 1 unless all four are 0 and nothing ended in a traceback.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("POLYAK_CACHE", "off")

from torture import disks, environments, folders, kills
from torture.table import Table

PARTS = {"folders": folders, "kills": kills, "disks": disks, "environments": environments}
SECONDS = 600.0  # for all, shared out


def main() -> int:
    """Try everything and print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    names = sys.argv[2:] or list(PARTS)
    table = Table()
    for name in names:
        began = time.monotonic()
        PARTS[name].torture(table, seconds / len(names))
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(table)
    return int(not table.holds)


if __name__ == "__main__":
    sys.exit(main())
