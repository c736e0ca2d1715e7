"""What rows.toml makes: docs/coverage.md, and the count in README. `python -m reproductions.coverage` writes both."""

import re
from collections import Counter

from reproductions.rows import HERE, NOTES, QUICK, ROWS, Row, read_notes, read_rows

PAGE, README = HERE.parent / "docs" / "coverage.md", HERE.parent / "README.md"
BETWEEN = re.compile(r"(?<=<!-- rows: begin -->\n).*?(?=<!-- rows: end -->)", re.DOTALL)
CHAPTERS = {
    "A": "Gradient estimators, policies, objectives",
    "B": "Policy search without gradients",
    "C": "Values",
    "D": "Deterministic policy gradients, exploration, driving",
    "E": "Goals",
    "F": "Actor-critic, entropy, trust regions",
    "G": "Models, planning, games, the reality gap",
    "H": "Domains",
}


def page() -> str:
    """docs/coverage.md."""
    rows, notes = read_rows(ROWS), read_notes(NOTES)
    parts = [
        "# What stands, row by row\n\n"
        f"The lecture notes have {len(notes)} methods and domains. A row stands when a command shows it: a small\n"
        "program that measures, prints what it found and fails where the claim does not hold. This page is made from\n"
        "[`rows.toml`](../reproductions/rows.toml).\n\n"
        f"{count()}\n"
        "```sh\n"
        f"make rows                  # every check of at most {QUICK:.0f} minutes\n"
        "make rows ROW=C5           # one of them, with all that it prints\n"
        "make rows ROW=A8 LONG=1    # the published protocol, where that takes longer\n"
        "```\n"
    ]
    for chapter, title in CHAPTERS.items():
        lines = [
            f"| {name} | {method.title} | {', '.join(map(str, method.lectures))} | {cells(rows.get(name))} |"
            for name, method in notes.items()
            if name[0] == chapter
        ]
        head = (
            "| row | what | lecture | state | command | measured |\n| --- | --- | --- | --- | --- | --- |\n"
        )
        parts.append(f"\n## {chapter}. {title}\n\n{head}" + "\n".join(lines) + "\n")
    parts.append("\n## What each check claims\n\n| row | claim |\n| --- | --- |\n")
    parts.append("".join(f"| {name} | {escape(row.claim)} |\n" for name, row in rows.items()))
    parts.append("\n## Longer forms\n\n| row | command | measured |\n| --- | --- | --- |\n")
    for name, row in rows.items():
        if row.long:
            figure = escape(row.measured_long) or "not measured"
            parts.append(f"| {name} | `make rows ROW={name} LONG=1` | {figure} |\n")
    return "".join(parts)


def cells(row: Row | None) -> str:
    """State, command and figure of a row, as cells of a table."""
    if row is None:
        return "not yet | | "
    state = f"in part; missing: {escape(row.part)}" if row.part else "stands"
    return f"{state} | `make rows ROW={row.id}` | {escape(row.measured) or 'not measured'}"


def escape(text: str) -> str:
    """Text that may stand in a cell."""
    return text.replace("|", "\\|")


def count() -> str:
    """How many rows stand, in one sentence: what README says."""
    rows, total = read_rows(ROWS), len(read_notes(NOTES))
    states = Counter("part" if row.part else "full" for row in rows.values())
    return (
        f"Of the {total} methods and domains of the lecture notes {states['full']} stand in full and {states['part']} "
        f"in part; {total - len(rows)} are not here yet.\n"
    )


def write() -> None:
    """Write both pages."""
    PAGE.write_text(page(), encoding="utf-8")
    readme, found = BETWEEN.subn(lambda _: count(), README.read_text(encoding="utf-8"))
    assert found == 1, "README needs <!-- rows: begin --> and <!-- rows: end --> once"
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    write()
