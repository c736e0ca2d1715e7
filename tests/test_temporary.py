"""Temporary folders: gone with their owner however it ends, and nobody else's ever touched."""

import errno
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from polyak import temporary
from polyak.temporary import MARK, TemporaryFolder, sweep

pytestmark = pytest.mark.skipif(temporary.fcntl is None, reason="folders cannot be locked here")
DEAD = "polyak-0123abcd"
GONE = f"4194304 {platform.node()}"  # what the mark of an owner says that was here


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The system's folder of temporary files, empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def names(place):
    return sorted(path.name for path in place.iterdir())


def left_behind(place, name=DEAD, mode=0o700, says=GONE, files=("log", "r/log")):
    """A folder whose owner is gone."""
    folder = place / name
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("")
    if says is not None:
        (folder / MARK).symlink_to(says)
    folder.chmod(mode)
    return folder


def owner(place):
    """A process that has a folder and lives, and the folder's name."""
    said = "from polyak.temporary import *; f = TemporaryFolder(); print(f.path, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", said], env={**os.environ, "TMPDIR": str(place)}, **pipes
    )
    return process, os.path.basename(process.stdout.readline().decode().strip())


def test_a_folder_is_this_users_alone_and_goes_when_it_is_closed(place):
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with TemporaryFolder() as path:
        assert names(place) == [os.path.basename(path)]
        assert os.stat(path).st_mode & 0o777 == 0o700
        (Path(path) / "deep" / "er").mkdir(parents=True)
        (Path(path) / "deep" / "er" / "file").write_text("")
        (Path(path) / "link").symlink_to(place)
    assert names(place) == []
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) == before


def test_what_a_killed_owner_leaves_goes_with_the_next_folder_and_what_a_living_one_has_stays(place):
    (killed, first), (living, second) = owner(place), owner(place)
    try:
        (place / first / "r").mkdir()
        (place / first / "r" / "log").write_text("")
        TemporaryFolder().close()
        assert names(place) == sorted([first, second])
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert names(place) == sorted([first, second])
        TemporaryFolder().close()
        assert names(place) == [second]
        living.communicate(b"\n")
        TemporaryFolder().close()  # it ended without closing
        assert names(place) == []
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()


@pytest.mark.parametrize("gap", ["open", "lock", "mark"])
def test_a_sweep_in_the_middle_of_making_takes_no_folder_that_is_given(place, monkeypatch, gap):
    """Between making and opening, opening and locking, locking and marking: where it is swept, another is made."""
    where, real, swept = (
        {"open": (os, "open"), "lock": (temporary, "lock"), "mark": (temporary, "mark")},
        [],
        [],
    )
    thing, name = where[gap]
    real = getattr(thing, name)

    def meanwhile(*args, **more):
        new = gap != "open" or ("dir_fd" in more and temporary.NAME.fullmatch(args[0]))
        if new and not swept:
            swept.append(names(place))
            sweep()
        return real(*args, **more)

    monkeypatch.setattr(thing, name, meanwhile)
    with TemporaryFolder() as path:
        assert len(swept[0]) == 1
        assert (os.path.basename(path) in swept[0]) == (gap == "mark")
        assert names(place) == [os.path.basename(path)]
        sweep()
        (Path(path) / "file").write_text("")


def test_a_folder_that_somebody_looks_at_before_its_owner_has_the_lock_is_given_up(place, monkeypatch):
    real, looking = temporary.lock, []

    def late(folder):
        if not looking:
            looking.append(os.open(place / names(place)[0], os.O_RDONLY))
            real(looking[0])
        real(folder)

    monkeypatch.setattr(temporary, "lock", late)
    with TemporaryFolder() as path:
        os.close(looking[0])
        sweep()
        assert names(place) == [os.path.basename(path)]


def test_two_sweepers_do_not_meet_in_one_folder(place):
    left_behind(place)
    held = os.open(place / DEAD, os.O_RDONLY)
    temporary.lock(held)
    sweep()
    assert names(place / DEAD) == ["log", MARK, "r"]
    os.close(held)
    sweep()
    assert names(place) == []


def test_a_folder_that_another_swept_and_made_anew_is_not_taken_for_the_old_one(place, monkeypatch):
    old, real = left_behind(place), temporary.lock

    def late(folder):
        real(folder)
        old.rename(place / "elsewhere")
        left_behind(place, files=("new",))

    monkeypatch.setattr(temporary, "lock", late)
    sweep()
    assert names(place / DEAD) == ["new", MARK]
    assert names(place / "elsewhere") == ["log", MARK, "r"]


def test_many_who_make_and_sweep_at_once_keep_what_they_have_and_leave_nothing(place):
    for number in range(40):
        left_behind(place, f"polyak-{number:08x}")
    wrong, start = [], threading.Barrier(6)

    def work():
        start.wait()
        for _ in range(40):
            try:
                with TemporaryFolder() as path:
                    (Path(path) / "file").write_text("")
                    sweep()
                    (Path(path) / "file").read_text()
            except OSError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sweep()
    assert wrong == []
    assert names(place) == []


OTHERS = {
    "open to others": {"mode": 0o755},
    "open to all": {"mode": 0o777},
    "a name that a person chose": {"name": "polyak-before"},
    "a longer name": {"name": DEAD + "0"},
    "of an older version, without a mark": {"says": None},
    "of another machine": {"says": "1 another-machine"},
    "with a mark that is no mark": {"says": "nobody"},
    "with a link to all of the disk as its mark": {"says": "/"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_one_of_these_stays(place, what):
    folder = left_behind(place, **OTHERS[what])
    before = sorted(folder.rglob("*"))
    left_behind(place, "polyak-ffffffff")
    sweep()
    assert names(place) == [folder.name]
    assert sorted(folder.rglob("*")) == before


def test_another_users_folder_stays(place, monkeypatch):
    left_behind(place)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    sweep()
    assert names(place / DEAD) == ["log", MARK, "r"]


def test_no_link_is_followed_out_of_a_folder_or_into_one(place, tmp_path):
    """Neither where a folder is expected, nor inside of one, nor where one becomes a link while it is looked at."""
    outside = left_behind(tmp_path, "outside")
    before = sorted(outside.rglob("*"))
    (place / "polyak-00000000").symlink_to(outside)
    dead = left_behind(place)
    (dead / "link").symlink_to(outside)
    (dead / "r" / "link").symlink_to(outside)
    os.link(outside / "log", dead / "second name")
    sweep()
    assert names(place) == ["polyak-00000000"]
    assert sorted(outside.rglob("*")) == before


def test_a_folder_that_becomes_a_link_while_it_is_looked_at_is_not_followed(place, tmp_path, monkeypatch):
    outside, dead = left_behind(tmp_path, "outside"), left_behind(place)
    before, real = sorted(outside.rglob("*")), temporary.is_ours

    def then_a_link(found):
        if dead.is_dir() and not dead.is_symlink():
            dead.rename(place / "moved")
            dead.symlink_to(outside)
        return real(found)

    monkeypatch.setattr(temporary, "is_ours", then_a_link)
    sweep()
    assert sorted(outside.rglob("*")) == before


def test_pipes_and_files_of_such_a_name_are_passed_by(place):
    os.mkfifo(place / "polyak-00000000", 0o700)
    (place / "polyak-00000001").write_text("")
    os.mkfifo(left_behind(place, "polyak-00000002") / "pipe")
    left_behind(place, "polyak-00000003", says=None)
    os.mkfifo(place / "polyak-00000003" / MARK)
    began = time.monotonic()
    sweep()
    assert names(place) == ["polyak-00000000", "polyak-00000001", "polyak-00000003"]
    assert time.monotonic() - began < 5


def test_on_a_disk_without_locks_a_folder_is_made_and_nobody_sweeps_it(place, monkeypatch):
    left_behind(place)

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(temporary.fcntl, "flock", none)
        folder = TemporaryFolder()
    (Path(folder.path) / "file").write_text("")
    assert not os.path.lexists(os.path.join(folder.path, MARK))
    sweep()  # by somebody who has locks
    assert names(place) == [os.path.basename(folder.path)]
    folder.close()
    assert names(place) == []


def test_what_cannot_be_removed_keeps_its_mark_and_is_removed_when_it_can_be(place, monkeypatch):
    left_behind(place)
    real, busy = temporary.remove_entry, ["r"]
    monkeypatch.setattr(temporary, "remove_entry", lambda *args: args[0] in busy or real(*args))
    sweep()
    assert names(place / DEAD) == [MARK, "r"]
    busy.clear()
    sweep()
    assert names(place) == []


def test_a_file_that_comes_at_the_last_moment_does_not_take_the_mark_away(place, monkeypatch):
    dead, real = left_behind(place), os.rmdir

    def late(*args, **more):
        if args[0] == DEAD:
            (dead / "late").write_text("")
        real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", late)
        sweep()
    assert names(dead) == ["late", MARK]
    sweep()
    assert names(place) == []


def test_a_sweep_takes_a_bounded_time(place, monkeypatch):
    for number in range(5):
        left_behind(place, f"polyak-{number:08x}")
    ticks = iter(range(0, 1000))
    monkeypatch.setattr(temporary, "monotonic", lambda: 0.9 * next(ticks))
    sweep()
    assert len(names(place)) == 3


def test_where_no_folder_can_be_made_it_is_said(place, monkeypatch):
    monkeypatch.setattr(temporary, "claimed", lambda *_: -1)
    with pytest.raises(FileExistsError, match="no temporary folder could be made"):
        TemporaryFolder()
