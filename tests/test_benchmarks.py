"""The turns that contenders of a benchmark take, and that it always ends; no figure is tested."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "speed"))

import bench
import interleave
from interleave import Patience

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

needs_stops = pytest.mark.skipif(not interleave.CAN_STOP, reason="processes cannot be stopped here")


def command(before=0.0, work=0.4, after=0.0, script=WORK):
    return [sys.executable, "-c", script.format(before=before, work=work, after=after)]


@needs_stops
def test_only_its_own_turns_count(monkeypatch):
    monkeypatch.setattr(interleave, "TURN_SECONDS", 0.05)
    began = time.perf_counter()
    found = interleave.interleave({"a": command(before=0.5), "b": command(work=0.8), "c": command(after=0.5)})
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
    monkeypatch.setattr(interleave, "TURN_SECONDS", 0.05)
    seen, stands = [], []
    taken = interleave.Contender.turn

    def turn(self, *args):
        seen.append((time.perf_counter(), "goes on"))
        taken(self, *args)
        seen.append((time.perf_counter(), "stands"))
        stands.append(stands_still(self.process))

    monkeypatch.setattr(interleave.Contender, "turn", turn)
    interleave.interleave({"a": command(), "b": command()})
    assert [what for _, what in sorted(seen)] == ["goes on", "stands"] * (len(seen) // 2)
    assert len(seen) > 8
    assert all(stands)


def stands_still(process):
    """Whether no thread of it runs any more, or it has ended."""
    return process.poll() is not None or not Path("/proc").exists() or comes_to(process.pid, "TZ")


def comes_to(pid, states):
    """Whether a process of Linux is soon in one of these states; those that are gone are in "Z"."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return "Z" in states
        if text.rsplit(")", 1)[1].split()[0] in states:
            return True
        time.sleep(0.01)
    return False


HANGS = "import signal, sys, time\nprint('at work', file=sys.stderr, flush=True)\n"
SLEEP = "while True:\n    time.sleep(1)\n"
BEGUN = "print('begin', flush=True)\n"
ENDED = BEGUN + "print('end', flush=True)\nprint('{{\"steps\": 7}}', flush=True)\n"
CHILD = "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('no such work')", "no such work"),
        ("print('begin'); raise ValueError('in the middle')", "ValueError: in the middle"),
        ("import os; os._exit(3)", "exit 3"),
        ("pass", "left without 'begin', 'end' and a line of JSON"),
        ("print('begin'); print('end'); print('no JSON')", "left without 'begin', 'end' and a line of JSON"),
        ("print('end'); print('{{\"steps\": 7}}')", "left without 'begin', 'end' and a line of JSON"),
        ("print('begin'); print('end'); print('7')", "left without 'begin', 'end' and a line of JSON"),
        ("import os, sys; os.write(1, b'\\xff\\n'); sys.exit('not UTF-8')", "not UTF-8"),
        ("import os; os.kill(os.getpid(), 9)", "exit -9"),
        (ENDED + "raise SystemExit('at the very end')", "at the very end"),
        (HANGS + CHILD + "sys.exit('left a child behind')", "left a child behind"),
    ],
)
def test_a_contender_that_fails_leaves_the_others_alone(script, said):
    began = time.perf_counter()
    found = interleave.interleave({"bad": command(script=script), "good": command(work=0.1)})
    assert found["bad"] == {"error": said}
    assert found["good"]["steps"] == 7
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (HANGS + SLEEP, "no 'begin' within 4 s; at work"),
        (HANGS + CHILD + SLEEP, "no 'begin' within 4 s; at work"),
        (HANGS + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP, "no 'begin' within 4 s; at work"),
        (HANGS + BEGUN + SLEEP, "no 'end' within 2 s; at work"),
        (HANGS + ENDED + SLEEP, "did not leave within 2 s; at work"),
        (HANGS + "import os\nos.close(1)\n" + SLEEP, "did not leave within 2 s; at work"),
    ],
)
def test_a_contender_that_hangs_is_ended_and_leaves_the_others_alone(script, said, monkeypatch):
    monkeypatch.setattr(interleave, "TURN_SECONDS", 0.05)
    began = time.perf_counter()
    found = interleave.interleave(
        {"good": command(work=0.1), "bad": command(script=script), "other": command(work=0.1)},
        patience=Patience(begin=4.0, end=2.0, leave=2.0),
    )
    assert found["bad"] == {"error": said}
    assert found["good"]["steps"] == found["other"]["steps"] == 7
    assert time.perf_counter() - began < 30


@needs_stops
@pytest.mark.parametrize("when", ["", BEGUN, ENDED])
def test_a_contender_that_stops_itself_is_ended(when, monkeypatch):
    monkeypatch.setattr(interleave, "TURN_SECONDS", 0.05)
    script = HANGS + when + "import os\nwhile True:\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
    found = interleave.interleave(
        {"bad": command(script=script), "good": command(work=0.1)},
        patience=Patience(begin=4.0, end=2.0, leave=2.0),
    )
    assert found["bad"]["error"].endswith(" s; at work")
    assert found["good"]["steps"] == 7


def test_a_program_that_is_not_there_leaves_the_others_alone():
    missing = str(ROOT / "benchmarks" / ".nowhere" / "python")
    found = interleave.interleave({"bad": [missing, "x.py"], "good": command(work=0.1)})
    assert list(found) == ["bad", "good"]
    assert found["bad"]["error"].startswith(f"{Path('benchmarks/.nowhere/python')} cannot be started: ")
    assert found["good"]["steps"] == 7


@needs_stops
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads what Linux says of a process")
def test_what_a_contender_started_stands_still_and_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(interleave, "TURN_SECONDS", 0.05)
    noted = tmp_path / "pid"
    start = f"""
import pathlib, subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(noted)!r}).write_text(str(child.pid), encoding="utf-8")
"""
    stood = []
    turn = interleave.Contender.turn

    def watched(self, *args):
        turn(self, *args)
        stood.append(comes_to(int(noted.read_text(encoding="utf-8")), "T"))

    monkeypatch.setattr(interleave.Contender, "turn", watched)
    script = WORK.replace("time.sleep({before})", start)
    found = interleave.interleave({"parent": command(script=script), "other": command()})
    assert found["parent"]["steps"] == found["other"]["steps"] == 7
    assert len(stood) > 4
    assert all(stood)
    assert comes_to(int(noted.read_text(encoding="utf-8")), "Z")


@needs_stops
def test_no_contender_outlives_the_measurement(monkeypatch):
    begun = []
    listen = interleave.Contender._listen

    def noted(self):
        begun.append(self.process)
        listen(self)

    monkeypatch.setattr(interleave.Contender, "_listen", noted)
    monkeypatch.setattr(interleave, "json", None)  # reading the first result fails
    with pytest.raises(AttributeError):
        interleave.interleave({"a": command(work=0.05), "b": command(work=0.05, after=60)})
    assert len(begun) == 2
    for process in begun:
        assert process.poll() is not None
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


# ---- the table


FAILED = {"error": "ModuleNotFoundError: No module named 'sbx' | " + "x" * 200}
MADE = {"steps": 10, "seconds": 2.0, "steps_per_s": 5.0, "peak_mb": 1.0, "compile_s": 1.0}


def test_a_contender_that_failed_is_left_out_of_further_repeats_and_named_in_the_table(monkeypatch):
    asked = []

    def answer(commands, environments):
        asked.append(list(commands))
        return {side: FAILED if side == "sbx" else MADE for side in commands}

    monkeypatch.setattr(bench, "interleave", answer)
    found = bench.compare("td3-halfcheetah", 2)
    assert asked == [["polyak", "sbx", "sb3", "tianshou"], ["polyak", "sb3", "tianshou"]]
    assert found["sbx"] == [FAILED, FAILED]
    lines = bench.rows({"workloads": {"td3-halfcheetah": found}, "roofline": {"error": "none"}})
    beside = {line[1]: line for line in lines}
    assert beside["sbx"][4].startswith("sbx left out: ModuleNotFoundError: No module named 'sbx' / xx")
    assert len(beside["sbx"][4]) == bench.LONGEST
    assert beside["sb3"][4] == "1.00 (1.00 to 1.00)"
    assert "|" not in beside["sbx"][4]


def test_what_stands_alone_never_stops_a_benchmark(tmp_path):
    said = bench.call(sys.executable, "-c", "import time; time.sleep(60)", patience=0.5)
    assert said == {"error": "no result within 0.5 s"}
    assert bench.call(sys.executable, "-c", "raise SystemExit('gone')") == {"error": "gone"}
    assert bench.call(sys.executable, "-c", "print('no JSON')") == {"error": "left without a line of JSON"}
    assert bench.call(sys.executable, "-c", "print('{}')") == {}
    assert "cannot be started" in bench.call(tmp_path / "python")["error"]


@pytest.mark.parametrize("script", ["benchmarks/speed/polyak_side.py", "benchmarks/ours.py"])
def test_another_checkout_runs_its_own_program_and_its_own_polyak(script, tmp_path, monkeypatch):
    """The program in the other checkout says which polyak it imports."""
    package = tmp_path / "src" / "polyak" / "__init__.py"
    for file, text in (
        (package, "NAME = 'the other one'"),
        (
            tmp_path / script,
            "import json, sys, polyak, time\nprint('begin', flush=True)\ntime.sleep(0.1)\nprint('end')\n"
            "print(json.dumps({'steps': 1, 'name': polyak.NAME, 'words': sys.argv[1:]}))",
        ),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    bench.check_import(tmp_path)
    monkeypatch.setattr(
        bench, "contenders", lambda name, repeat: {"polyak": [sys.executable, "gone.py", name]}
    )
    found = bench.against("ppo-graph", 2, tmp_path)
    assert [measured["name"] for measured in found["before"]] == ["the other one"] * 2
    assert found["before"][0]["words"] == ["ppo-graph"]
    lines = bench.rows_against({"ppo-graph": found})
    assert lines[0][3].startswith("polyak left out: ")
    found["polyak"] = [m | {"steps_per_s": 3 * m["steps_per_s"]} for m in found["before"]]
    assert bench.rows_against({"ppo-graph": found})[0][3] == "3.00 (3.00 to 3.00)"


def test_a_checkout_without_polyak_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="does not find that of"):
        bench.check_import(tmp_path)
    with pytest.raises(SystemExit, match="has neither of"):
        bench.side_script(tmp_path)


@needs_stops
def test_a_benchmark_that_is_terminated_leaves_nothing_standing(tmp_path):
    """SIGTERM while one contender stands still and another runs."""
    program = f"""
import signal, sys
sys.path.insert(0, {str(ROOT / "benchmarks" / "speed")!r})
import bench
note = "import pathlib, os, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); print('begin', flush=True)"
sleeper = [sys.executable, "-c", note + "; time.sleep(60)"]
bench.contenders = lambda name, repeat: {{"polyak": sleeper, "one": sleeper}}
sys.argv = ["bench.py", "ppo-seeds"]
bench.main()
"""
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    begun = [int(file.name) for file in tmp_path.iterdir()]
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 128 + signal.SIGTERM
    assert len(begun) == 2
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
