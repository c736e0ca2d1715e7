"""The attackers' kit: run folders as a stranger may make them, and a watch over what reading them does.

`test_attacks.py` tries each kind once; `python tests/torture` tries thousands.
"""

import hashlib
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from small_runs import small_ppo

from polyak.runs.run import train
from polyak.store import checkpoint

PPO = small_ppo(hidden=(4,))
DQN = {
    **{"data.steps": 2, "data.capacity": 64, "data.batch_size": 4, "data.warmup": 8, "data.updates": 1},
    "hidden": (4,),
}
QUIET = {"verbose": False, "preset": False}


def in_graph(out):
    """A finished run in one compiled program: two seeds, three checkpoints."""
    more = {"num_envs": 2, "seeds": 2, "eval_every": 16, "eval_episodes": 2, "eval_limit": 20}
    return train("ppo", "jax:CartPole-v1", steps=48, config=PPO, out=str(out), name="graph", **more, **QUIET)


def on_host(out):
    """A finished run on Gymnasium with a replay: two environments, three checkpoints."""
    more = {"num_envs": 2, "eval_every": 16, "eval_episodes": 2, "eval_limit": 20}
    return train("dqn", "CartPole-v1", steps=48, config=DQN, out=str(out), name="host", **more, **QUIET)


def copied(run, folder):
    """The run folder again, somewhere else."""
    shutil.copytree(run.path, folder, symlinks=True)
    return folder


def put(value, path, new):
    """Put something else at a path of keys inside nested dicts and lists; `path` may end at nothing yet."""
    *way, last = path
    for key in way:
        value = value[key]
    value[last] = new


def edit_config(folder, path, new):
    """Another value in config.json."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    put(config, path, new)
    file.write_text(json.dumps(config))


def seal(path):
    """Make a checkpoint's COMPLETE that of its manifest, as an attacker would."""
    text = (path / "manifest.json").read_bytes()
    (path / "COMPLETE").write_text(hashlib.sha256(text).hexdigest() + "\n")


def edit_manifest(folder, way, new):
    """Another value in the newest checkpoint's manifest, sealed; the older checkpoints go."""
    kept = checkpoint.complete(folder / "checkpoints")
    for path in kept[:-1]:
        shutil.rmtree(path)
    file = kept[-1] / "manifest.json"
    manifest = json.loads(file.read_text())
    put(manifest, way, new)
    file.write_text(json.dumps(manifest))
    seal(kept[-1])


class Watch:
    """What the process did while it was on: programs, connections, imports from and writes to forbidden places."""

    def __init__(self):
        self.on, self.allowed, self.executed, self.outside = False, (), [], []
        sys.addaudithook(self._hear)  # which nothing removes

    def _hear(self, event, args):
        if not self.on:
            return
        if event in ("os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "pty.spawn"):
            # Python asks `uname` for the platform's name, and videos are made by a program that is installed
            if not os.path.basename(str(args[0])).startswith(("uname", "lscpu", "ffmpeg")):
                self.executed.append((event, str(args[:2])[:200]))
        elif event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
            self.executed.append((event, str(args)[:200]))
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path, mode, flags = args
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes:
                follows = not (isinstance(flags, int) and flags & os.O_NOFOLLOW)
                self._wrote(os.fsdecode(path), follows)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"):
            for path in args[: 2 if event == "os.rename" else 1]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._wrote(os.fsdecode(path), follows=False)

    def _wrote(self, path, follows):
        folder, name = os.path.split(os.path.abspath(path))
        real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(folder), name)
        if not real.startswith(self.allowed):
            self.outside.append(real)

    @contextmanager
    def over(self, *allowed):
        """Watch the body, which may write below these folders."""
        compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        allowed = [os.path.realpath(path) for path in (*allowed, *([compiled] if compiled else []))]
        self.allowed = (*allowed, "/dev/", "/proc/")
        self.executed, self.outside, self.on = [], [], True
        try:
            yield self
        finally:
            self.on = False


def canary(folder: Path):
    """A file of the user's beside a run, which nobody may change."""
    file = folder / "precious.txt"
    file.write_text("mine\n")
    return file
