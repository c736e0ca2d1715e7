"""What came of the attacks, by kind."""

from collections import Counter, defaultdict

BAD = ("lost", "executed", "outside", "hung", "crashed")
COLUMNS = ("tried", "done", "refused", *BAD)


class Table:
    """Counts by kind of attack, and the first cases of what must not be."""

    def __init__(self):
        self.counts = defaultdict(Counter)
        self.cases = []

    def add(self, kind, outcome, case=""):
        """One more case: what came of it, one of COLUMNS but `tried`."""
        self.counts[kind]["tried"] += 1
        self.counts[kind][outcome] += 1
        if outcome in BAD:
            self.cases.append(f"{kind}: {outcome}: {case}")

    @property
    def holds(self):
        """Whether nothing happened that must not, and something was tried."""
        total = sum(self.counts.values(), Counter())
        return total["tried"] > 0 and not any(total[name] for name in BAD)

    def __str__(self):
        rows = [("", *COLUMNS)]
        for kind, counts in self.counts.items():
            rows.append((kind, *(str(counts[name]) for name in COLUMNS)))
        total = sum(self.counts.values(), Counter())
        rows.append(("all", *(str(total[name]) for name in COLUMNS)))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in rows]
        return "\n".join(lines + [f"- {case}" for case in self.cases[:20]])
