"""Run folders from a stranger, in a process of their own that an audit hook watches."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

from polyak.temporary import TemporaryFolder

SLOW = 60.0  # seconds that one case may take
WORDS = [
    "",
    "x",
    "pgx:x",
    "hostile:x",
    "../../x",
    "/etc/passwd",
    "jax:CartPole-v1",
    "\x1b]0;x\x07",
    "A" * 5000,
]
WORDS += [
    "envpool:D1Basic-v1",
    "gymnax:MNISTBandit-bsuite",
    "CartPole-v1",
    "ppo",
    "None",
    "NaN",
    "\u202e",
    "mlp",
]
NUMBERS = [0, 1, -1, 2, 3, 7, 2**31, 2**31 - 1, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**15, 10**400]
NUMBERS += [0.5, -0.0, 1e-300, 1e300, 20.5, 1e400]
VALUES = [*WORDS, *NUMBERS, None, True, False, [], {}, [[]], [1, 2, 3], {"a": 1}, [8] * 40_000]
NAMES = ["__class__", "data.steps", "\x1b[2J", "steps", "env_fields", "xml_file", "vzd_path", "a" * 300]


def torture(table, seconds):
    """Fuzz until the time is over."""
    with TemporaryFolder() as folder:
        runs = in_process(make_runs, folder)
        if runs is None:
            raise SystemExit("torture: the runs to be attacked could not be made")
        until, seed = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            found = in_process(try_many, folder, seed, min(until, time.monotonic() + 120), limit=240)
            if found is None:
                table.add("folders", "hung", f"python tests/torture 60 folders, batch {seed}")
            for kind, outcome, case in found or ():
                table.add(kind, outcome, case)
            seed += 1


def in_process(function, *args, limit=300.0):
    """What a function returns in a new process; None where it took too long or did not return."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, function, args), daemon=False)
    process.start()
    theirs.close()
    found = None
    try:
        if ours.poll(limit):
            found = ours.recv()
    except EOFError:
        pass
    process.join(5)
    if process.is_alive():
        process.kill()
    return found


def _send(pipe, function, args):
    pipe.send(function(*args))


def make_runs(folder):
    """The runs that are attacked."""
    from attacks import in_graph, on_host

    return [str(make(Path(folder) / "sound").path) for make in (in_graph, on_host)]


def try_many(folder, seed, until):
    """A batch of cases: (kind, outcome, what was done)."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    from attacks import Watch, canary

    watch, rng, found = Watch(), random.Random(seed), []
    mine = canary(Path(folder))
    for name in ("hostile", "pgx", "brax", "playground", "shimmy"):
        Path(f"{name}.py").write_text("import pathlib; pathlib.Path('EXECUTED').touch()\n")
    case = 0
    while time.monotonic() < until:
        case += 1
        kind = rng.choice(
            ["config", "config", "manifest", "manifest", "arrays", "metrics", "bytes", "places"]
        )
        target = Path(folder) / f"case-{os.getpid()}"
        shutil.copytree(Path(folder) / "sound" / rng.choice(["graph", "host"]), target, symlinks=True)
        try:
            what = ATTACKS[kind](target, rng, mine)
        except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError):
            shutil.rmtree(target, ignore_errors=True)  # nothing to attack there
            continue
        outcome = attempt(watch, target, rng)
        if mine.read_text() != "mine\n":
            outcome, _ = "lost", mine.write_text("mine\n")
        if Path("EXECUTED").exists():
            outcome, _ = "executed", Path("EXECUTED").unlink()
        found.append((kind, outcome, f"seed {seed}, case {case}: {what}"[:300]))
        shutil.rmtree(target, ignore_errors=True)
    return found


def attempt(watch, target, rng):
    """What comes of reading, evaluating or resuming a folder."""
    import contextlib
    import io

    from polyak.cli import main

    words = rng.choice(
        [
            ["evaluate", "--episodes", "2"],
            ["resume"],
            ["digest"],
            ["resume", "--steps", "64"],
            ["report", "--csv"],
        ]
    )
    said, began = io.StringIO(), time.monotonic()

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(int(SLOW))
    try:
        with (
            watch.over(target, os.getcwd()),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            code = main([words[0], str(target), *words[1:]])
    except TimeoutError:
        return "hung"
    except BaseException:
        traceback.print_exc()
        return "crashed"
    finally:
        signal.alarm(0)
    if "TimeoutError" in said.getvalue() or time.monotonic() - began > SLOW:
        return "hung"
    if watch.executed:
        print(watch.executed[:3], file=sys.stderr)
        return "executed"
    if watch.outside:
        print(watch.outside[:3], file=sys.stderr)
        return "outside"
    if code not in (0, 2) or "Traceback" in said.getvalue() or "\x1b" in said.getvalue():
        print(said.getvalue()[-2000:], file=sys.stderr)
        return "crashed"
    return "done" if code == 0 else "refused"


# ---- the attacks, by file


def places_of(value, way=()):
    """Every path of keys in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield [*way, key]
        yield from places_of(inner, (*way, key))


def mutate(value, rng):
    """Change one to three places of a JSON value; what was done."""
    from attacks import put

    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        way = rng.choice(list(places_of(value)))
        new = rng.choice(VALUES)
        if rng.random() < 0.15:
            way = [*way[:-1], rng.choice(NAMES)]
        put(value, way, new)
        done.append(
            f"{'/'.join(map(str, way))} = {str(new)[:40] if not isinstance(new, int) else 'a number'}"
        )
    return "; ".join(done)


def attack_config(target, rng, mine):
    file = target / "config.json"
    config = json.loads(file.read_text())
    plan = {"plan": config["plan"]} if rng.random() < 0.9 else config
    what = mutate(plan, rng)
    file.write_text(json.dumps(config))
    return what


def newest_alone(target, rng):
    """The newest checkpoint, mostly with no other to fall back on."""
    from polyak.store import checkpoint

    *older, newest = checkpoint.complete(target / "checkpoints")
    for path in older if rng.random() < 0.8 else ():
        shutil.rmtree(path)
    return newest


def attack_manifest(target, rng, mine):
    from attacks import seal

    newest = newest_alone(target, rng)
    manifest = json.loads((newest / "manifest.json").read_text())
    what = mutate(manifest if rng.random() < 0.4 else {"extra": manifest["extra"]}, rng)
    (newest / "manifest.json").write_text(json.dumps(manifest))
    seal(newest)
    return what


def attack_arrays(target, rng, mine):
    import numpy as np
    from attacks import seal

    from polyak.store import storage

    newest = newest_alone(target, rng)
    arrays = storage.read_arrays(newest / "arrays.safetensors")
    name = rng.choice(sorted(arrays))
    array = np.array(arrays[name])
    bound = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
    extremes = (
        [bound.min, bound.max, 0]
        if bound
        else [np.nan, np.inf, -1e38, 0]
        if array.dtype.kind == "f"
        else [0, 1]
    )
    with np.errstate(all="ignore"):
        array[...] = rng.choice(extremes)
    sha256 = storage.write_arrays(newest / "arrays.safetensors", {**arrays, name: array})
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256}))
    seal(newest)
    return f"{name} = {array.ravel()[:1]}"


def attack_metrics(target, rng, mine):
    file = target / "metrics.jsonl"
    lines = file.read_text().splitlines()
    at = rng.randrange(len(lines))
    line = json.loads(lines[at])
    what = mutate(line, rng)
    lines[at] = json.dumps(line)
    if rng.random() < 0.3:
        lines.insert(at, rng.choice(["null", "[" * 100_000, "\x1b[31m", "{", '{"env_steps": 1}']))
    file.write_text("\n".join(lines))
    return what


def attack_bytes(target, rng, mine):
    """Any file, cut, flipped, grown or emptied."""
    file = rng.choice(sorted(path for path in target.rglob("*") if path.is_file()))
    data = bytearray(file.read_bytes())
    how = rng.choice(["flip", "cut", "grow", "empty", "compress"])
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    data = {
        "cut": data[: len(data) // 2],
        "grow": data + b"\0" * 1000,
        "empty": b"",
        "compress": zlib.compress(data),
    }.get(how, data)
    file.write_bytes(data)
    return f"{how} {file.relative_to(target)}"


def attack_places(target, rng, mine):
    """A link, a pipe, a folder or a device's name where a file or folder is expected."""
    found = sorted(path for path in target.rglob("*"))
    file = rng.choice(
        [*found, *(target / name for name in (".metrics.jsonl", ".config.json", "videos", "lock"))]
    )
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    how = rng.choice(["link", "link to folder", "hard link", "pipe", "folder", "loop", "device"])
    if how == "hard link":
        os.link(mine, file)
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    else:
        file.symlink_to(
            {"link": mine, "link to folder": mine.parent, "loop": file, "device": "/dev/zero"}[how]
        )
    return f"{how} at {file.relative_to(target)}"


ATTACKS = {
    "config": attack_config,
    "manifest": attack_manifest,
    "arrays": attack_arrays,
    "metrics": attack_metrics,
    "bytes": attack_bytes,
    "places": attack_places,
}
