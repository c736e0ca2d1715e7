"""The rows of the lecture notes: the file is well formed, the runner counts right, the pages are what it makes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyak.errors import UserError
from reproductions import coverage, finding, rows

NOTES = rows.read_notes()
ROWS = rows.read_rows()
LETTERS = {"A": 12, "B": 8, "C": 16, "D": 15, "E": 6, "F": 12, "G": 18, "H": 6}
EXIT = "python -c 'print(1); print(\"{}\"); raise SystemExit({})'"


# ---- the files


def test_the_notes_have_93_rows_numbered_without_a_gap():
    wanted = [f"{letter}{number}" for letter, count in LETTERS.items() for number in range(1, count + 1)]
    assert list(NOTES) == wanted
    assert len(wanted) == 93
    assert len({method.title for method in NOTES.values()}) == 93
    assert all(method.lectures and set(method.lectures) <= set(range(5)) for method in NOTES.values())


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_is_well_formed(row):
    assert row.id in NOTES
    assert row.title
    assert row.claim
    assert row.minutes > 0
    for figure in (row.measured, row.measured_long):
        assert not figure or re.search(r"; \d{4}-\d\d-\d\d, [0-9a-f]{7}\+?$", figure), (
            "a figure, a day, a commit"
        )


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_check_names_a_program_that_takes_its_row(row):
    for command in filter(None, (row.check, row.long)):
        if command.startswith("polyak "):
            continue
        parts = re.fullmatch(r"python -m reproductions\.(\w+) --row (\w+)( --long)?", command)
        assert parts, command
        assert parts[2] == row.id
        source = (rows.HERE / f"{parts[1]}.py").read_text(encoding="utf-8")
        offered, _, longer = source.partition("main(")[2].partition("long=")
        assert f'"{row.id}": ' in (longer if parts[3] else offered)


def test_a_program_runs_the_row_and_the_form_that_it_is_asked_for(monkeypatch, capsys):
    checks = {
        "A8": lambda: finding.Finding({"a": True}, "1"),
        "C7": lambda: finding.Finding({"a": False}, "2"),
    }
    longer = {"C7": lambda: finding.Finding({"a": True}, "3")}

    def asked(*said: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["program", *said])
        with pytest.raises(SystemExit) as stop:
            finding.main(checks, longer)
        return stop.value.code, capsys.readouterr().out.strip().rpartition("\n")[2]

    assert asked("--row", "A8") == (0, "1")
    assert asked("--row", "C7") == (1, "2")
    assert asked("--row", "C7", "--long") == (0, "3")
    assert asked("--row", "A8", "--long") == (2, "")
    assert asked("--row", "C4") == (2, "")
    assert asked() == (2, "")


def test_a_field_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="C4 has no field 'minits': did you mean 'minutes'"):
        rows.read_rows(written(tmp_path, C4={"minits": 1}))
    (tmp_path / "rows.toml").write_text('[C4]\ntitle = "x"\nclaim = "x"\nminutes = 1\n')
    with pytest.raises(UserError, match="C4 has no 'check'"):
        rows.read_rows(tmp_path / "rows.toml")


# ---- the runner


def written(folder: Path, **entries: dict) -> Path:
    """A rows file of stand-ins: each entry adds to, or replaces, what a row needs."""
    usual = {"title": "t", "claim": "c", "check": EXIT.format("fine", 0), "minutes": 0.01}
    text = ""
    for name, entry in entries.items():
        fields = usual | entry
        text += f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items()) + "\n"
    path = folder / "rows.toml"
    path.write_text(text, encoding="utf-8")
    return path


def toml(value: str | float) -> str:
    return f"'''{value}'''" if isinstance(value, str) else str(value)


def test_the_closing_line_counts_every_row_of_the_notes(tmp_path, capsys):
    path = written(
        tmp_path,
        A1={},
        A2={"part": "the rest"},
        A3={"check": EXIT.format("0.3", 1)},
        A4={"check": EXIT.format("cannot", 2)},
        A5={"minutes": 3},
    )
    assert rows.main([], path) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "rows: 1 hold, 1 in part, 2 fall short, 1 not run, 88 not yet"
    assert "falls short: 0.3" in printed
    assert printed.splitlines()[0] == "left out, since they take longer: A5; MINUTES=3 runs them too"
    assert "holds: fine" in printed


def test_all_that_holds_exits_with_0(tmp_path, capsys):
    assert rows.main([], written(tmp_path, A1={}, A2={})) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "rows: 2 hold, 0 fall short, 91 not yet"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_checks_that_run_at_once_are_counted_as_those_that_do_not(tmp_path, capsys):
    own = "python -c 'import os; print(len(os.sched_getaffinity(0)))'"
    path = written(tmp_path, A1={"check": own}, A2={"check": EXIT.format("bad", 1)}, A3={"minutes": 3})
    assert rows.main(["--jobs", "2", "--minutes", "5"], path) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "rows: 2 hold, 1 fall short, 90 not yet"
    assert f"A1 holds: {len(os.sched_getaffinity(0)) // 2}" in printed
    assert "A2 falls short: bad" in printed


def test_a_check_that_hangs_falls_short_and_is_gone(tmp_path, capsys):
    pid = tmp_path / "pid"
    script = tmp_path / "hangs.py"
    script.write_text(
        f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nprint('begun', flush=True)\ntime.sleep(600)"
    )
    path = written(tmp_path, A1={"check": f"python {script}"}, A2={})
    began = time.monotonic()
    assert rows.main(["--patience", "0.04"], path) == 1
    assert time.monotonic() - began < 15
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "rows: 1 hold, 1 fall short, 91 not yet"
    assert "falls short: stopped after" in printed
    assert "begun" in printed
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_ctrl_c_prints_what_was_found_so_far(tmp_path):
    path = written(tmp_path, A1={}, A2={"check": "python -c 'import time; time.sleep(600)'"}, A3={})
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # also in the background
        f"from pathlib import Path; from reproductions.rows import main; exit(main([], Path({str(path)!r})))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=rows.HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        assert any("[2/3]" in line for line in process.stdout)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().splitlines()
    assert process.returncode == 130
    assert rest[-1] == "rows: 1 hold, 0 fall short, 2 not run, 90 not yet"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (["--row", "C33"], "rows: unknown row 'C33': did you mean"),
        (["--row", "C13"], "rows: row C13 (NAF: a Q that is quadratic in the action) has no check yet"),
        (["--row", "A1", "--long"], "rows: row A1 has no longer form"),
        (["--long"], "rows: --long needs --row"),
        (["--jobs", "1000"], "rows: --jobs is 1000: give 1 to"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, said, line):
    assert rows.main(said, written(tmp_path, A1={})) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_one_row_prints_all_that_its_check_prints(tmp_path, capsys):
    path = written(
        tmp_path, A1={"check": EXIT.format("0.5", 0), "long": EXIT.format("0.7", 1), "minutes": 30}
    )
    assert rows.main(["--row", "A1"], path) == 0
    assert "\n1\n0.5\nA1 holds" in capsys.readouterr().out
    assert rows.main(["--row", "A1", "--long"], path) == 1
    assert "\n1\n0.7\nA1 falls short" in capsys.readouterr().out


def test_what_holds_is_kept_with_its_day_and_commit_and_nothing_else_changes(tmp_path, capsys):
    path = written(
        tmp_path,
        A1={"measured": "old; 2020-01-01, 0000000", "check": EXIT.format("new", 0)},
        A2={"measured": "kept; 2020-01-01, 0000000", "check": EXIT.format("bad", 1)},
        A3={"check": EXIT.format("first", 0)},
    )
    before = rows.read_rows(path)
    assert rows.main(["--write"], path) == 1
    after = rows.read_rows(path)
    assert after["A1"].measured.startswith("new; ")
    assert re.fullmatch(r"new; \d{4}-\d\d-\d\d, (.{7}\+?|commit unknown)", after["A1"].measured)
    assert after["A2"] == before["A2"]
    assert after["A3"].measured.startswith("first; ")
    assert [row.check for row in after.values()] == [row.check for row in before.values()]


# ---- a program's finding


def test_a_finding_holds_only_if_all_its_claims_do(capsys):
    assert finding.report(finding.Finding({"a": True, "b": True}, "0.5")) == 0
    assert finding.report(finding.Finding({"a": True, "b": False}, "0.5")) == 1
    assert finding.report(finding.Finding({}, "nothing was claimed")) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was claimed"


# ---- the pages


def test_the_coverage_page_is_what_the_rows_make():
    assert coverage.PAGE.read_text(encoding="utf-8") == coverage.page(), (
        "write it: python -m reproductions.coverage"
    )


def test_the_readme_counts_what_the_rows_make():
    found = coverage.BETWEEN.findall(coverage.README.read_text(encoding="utf-8"))
    assert found == [coverage.count()], "write it: python -m reproductions.coverage"


def test_the_coverage_page_has_every_row_once():
    named = re.findall(
        r"^\| ([A-H]\d+) \| .* \| (?:\d, )*\d \| (stands|in part|not yet)", coverage.page(), re.MULTILINE
    )
    states = dict(named)
    assert len(named) == len(states) == 93
    assert {name for name, state in named if state != "not yet"} == set(ROWS)
    assert {name for name, state in named if state == "in part"} == {n for n, r in ROWS.items() if r.part}
