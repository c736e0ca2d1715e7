"""Where the training loop's results go, and in which order."""

from typing import Any, Protocol


class Sink(Protocol):
    """Where the loop's results go."""

    def write(self, line: dict[str, Any]) -> None: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class InOrder:
    """A sink in which an evaluation stands before what was logged while it was played."""

    def __init__(self, sink: Sink):
        self.sink = sink
        self.later: list[dict[str, Any]] | None = None  # lines that wait for it

    def wait(self) -> None:
        """Hold lines back from here on."""
        self.later = self.later or []

    def go_on(self) -> None:
        """Write what was held back."""
        later, self.later = self.later or [], None
        for line in later:
            self.sink.write(line)

    def write_first(self, line: dict[str, Any]) -> None:
        """One line of the evaluation."""
        self.sink.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """One line."""
        if self.later is None:
            self.sink.write(line)
        else:
            self.later.append(line)

    def flush(self) -> None:
        """Before a checkpoint, which no evaluation is played across."""
        self.sink.flush()
