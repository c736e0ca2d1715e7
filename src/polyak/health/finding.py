"""Findings: what is wrong, in plain sentences with numbers, and what to do about it; the worst first."""

import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEVELS = ("error", "warning", "note")  # it breaks training, it probably harms it, it may be meant


class Finding(NamedTuple):
    """One thing that was found.

    level  one of LEVELS
    name   what it is about, in a word or two
    says   what was seen, with numbers
    fix    what to do
    """

    level: str
    name: str
    says: str
    fix: str = ""


def ranked(findings: Iterable[Finding], order: Sequence[str] = ()) -> list[Finding]:
    """Findings with the worst first, those of one level in the order of their names in `order`; each name once."""
    place = {name: number for number, name in enumerate(order)}
    rank = sorted(findings, key=lambda f: (LEVELS.index(f.level), place.get(f.name, len(place))))
    first: dict[str, Finding] = {}
    for finding in rank:
        first.setdefault(finding.name, finding)
    return list(first.values())


@dataclass(frozen=True)
class Report:
    """Everything that was found about one thing, and facts that are nobody's fault."""

    about: str
    findings: list[Finding]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """The findings that break training."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def sound(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.level == "note" for finding in self.findings)

    def __str__(self) -> str:
        return self.text(shutil.get_terminal_size().columns)

    def text(self, columns: int = 100) -> str:
        """The report for a terminal that is so wide."""
        columns = max(60, min(columns, 110))
        width = max(map(len, self.facts), default=0)
        lines = [self.about]
        for name, value in self.facts.items():
            lines += _hanging(f"  {name:<{width}}  ", value, columns)
        for finding in self.findings:
            lines += ["", *_hanging(f"{finding.level:<7}  ", f"[{finding.name}] {finding.says}", columns)]
            lines += _hanging(" " * 9 + "-> ", finding.fix, columns) if finding.fix else []
        return "\n".join([*lines, "", self.count()])

    def count(self) -> str:
        """How many findings of each level there are, in words."""
        found = {level: sum(each.level == level for each in self.findings) for level in LEVELS}
        said = [f"{n} {level}{'s' * (n != 1)}" for level, n in found.items() if n]
        return ", ".join(said) or "nothing found"

    def as_json(self) -> str:
        """One line of JSON."""
        said: dict[str, Any] = {"about": self.about, "facts": dict(self.facts)}
        return json.dumps(said | {"findings": [finding._asdict() for finding in self.findings]})


def _hanging(head: str, text: str, columns: int) -> list[str]:
    """A text behind a head, its further lines under its first."""
    return textwrap.wrap(
        text,
        columns,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]
