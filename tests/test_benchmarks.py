"""The turns that contenders of a benchmark take; no figure is tested."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import turns

WORK = """
import json, sys, time
time.sleep({before})
print("begin", flush=True)
until = time.process_time() + {work}
while time.process_time() < until:
    pass
print("end", flush=True)
time.sleep({after})
print("some word of a library")
print(json.dumps({{"steps": 7, "before": {before}}}))
"""

needs_stops = pytest.mark.skipif(not turns.CAN_STOP, reason="processes cannot be stopped here")


def command(before=0.0, work=0.4, after=0.0, script=WORK):
    return [sys.executable, "-c", script.format(before=before, work=work, after=after)]


@needs_stops
def test_only_its_own_turns_count(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 0.05)
    began = time.perf_counter()
    found = turns.take_turns({"a": command(before=0.5), "b": command(work=0.8), "c": command(after=0.5)})
    passed = time.perf_counter() - began
    assert list(found) == ["a", "b", "c"]
    for measured in found.values():
        assert measured["steps"] == 7
        assert measured["steps_per_s"] == pytest.approx(7 / measured["seconds"])
    assert found["a"]["seconds"] >= 0.39
    assert found["b"]["seconds"] >= 0.79
    # Counted by the clock alone they would add up to more than has passed, which holds what is not timed as well.
    assert sum(measured["seconds"] for measured in found.values()) < passed


@needs_stops
def test_contenders_run_one_at_a_time(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 0.05)
    seen, stands = [], []
    taken = turns.Contender.turn

    def turn(self, *args):
        seen.append((time.perf_counter(), "goes on"))
        taken(self, *args)
        seen.append((time.perf_counter(), "stands"))
        stands.append(stands_still(self.process))

    monkeypatch.setattr(turns.Contender, "turn", turn)
    turns.take_turns({"a": command(), "b": command()})
    assert [what for _, what in sorted(seen)] == ["goes on", "stands"] * (len(seen) // 2)
    assert len(seen) > 8
    assert all(stands)


def stands_still(process):
    """Whether no thread of it runs any more, or it has ended."""
    until = time.monotonic() + 10
    while process.poll() is None and Path("/proc").exists():
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        if state in "TZ":
            break
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('no such work')", "no such work"),
        ("print('begin'); raise ValueError('in the middle')", "ValueError: in the middle"),
        ("import os; os._exit(3)", "exit 3"),
    ],
)
def test_a_contender_that_fails_leaves_the_others_alone(script, said):
    found = turns.take_turns({"bad": command(script=script), "good": command(work=0.1)})
    assert found["bad"] == {"error": said}
    assert found["good"]["steps"] == 7


@needs_stops
def test_no_contender_outlives_the_measurement(monkeypatch):
    begun = []
    listen = turns.Contender._listen

    def noted(self):
        begun.append(self.process)
        listen(self)

    monkeypatch.setattr(turns.Contender, "_listen", noted)
    monkeypatch.setattr(turns, "json", None)  # reading the first result fails
    with pytest.raises(AttributeError):
        turns.take_turns({"a": command(work=0.05), "b": command(work=0.05, after=60)})
    assert len(begun) == 2
    for process in begun:
        assert process.poll() is not None
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
