"""What a machine has for training: versions, devices, memory, disk, rendering, extras, and the cache of programs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax

from polyak.envs.unseen import UNSEEN
from polyak.errors import UserError, printable
from polyak.health.finding import Finding, Report, ranked
from polyak.runs.folder import versions
from polyak.runs.memory import free_memory, gigabytes
from polyak.runs.setup import cache_folder, check_modes, set_up_jax

LEAST_DISK, LEAST_MEMORY = 2 << 30, 1 << 30  # bytes that a run of the usual size wants
SECONDS = 60  # that one of the programs below may take
PICTURES = {  # what is tried in a process of its own, since a driver may end it: name -> program
    "classic control": "import gymnasium; e = gymnasium.make('CartPole-v1', render_mode='rgb_array')",
    "MuJoCo": "import gymnasium; e = gymnasium.make('InvertedPendulum-v5', render_mode='rgb_array')",
}
DRAWN = "; e.reset(seed=0); p = e.render(); assert p.ndim == 3 and p.std() > 0; print(p.shape)"
ADVICE = {
    "No module named 'pygame'": 'pip install "polyak[classic-control]"',
    "No module named 'mujoco'": 'pip install "polyak[mujoco]"',
}
OPENGL = (
    "polyak watch draws MuJoCo with rays instead; for pictures of its own, export MUJOCO_GL=egl with a GPU, or osmesa "
    "(apt install libosmesa6) without one"
)


def check_machine(render: bool = True) -> Report:
    """All that may be missing on this machine. Pictures are drawn in other processes, unless `render` is false."""
    set_up_jax()
    found, facts = [], {"versions": " ".join(f"{name} {said}" for name, said in versions().items())}
    found += modes()
    driver, devices = driver_gpus(), jax.devices()
    facts["driver sees"] = "; ".join(driver) or "no GPU (nvidia-smi is not there, or finds none)"
    facts["JAX sees"] = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    found += unseen(driver, devices[0].platform)
    facts["processor"] = f"{os.cpu_count()} cores, of which this process may use {cores()}"
    facts["memory"] = f"{gigabytes(free_memory())} free"
    facts["disk"] = f"{gigabytes(shutil.disk_usage('.').free)} free in {Path.cwd()}"
    found += room()
    facts["programs"], cache = cached()
    found += cache
    facts["extras"] = extras()
    if render:
        for name, program in PICTURES.items():
            facts[f"picture, {name}"], problem = drawn(name, program)
            found += problem
        facts["video"], problem = video()
        found += problem
    return Report("this machine", ranked(found), facts)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def modes() -> Iterator[Finding]:
    """Modes of JAX that polyak does not run with."""
    try:
        check_modes()
    except UserError as error:
        yield Finding("error", "JAX", str(error), "see the line itself")


def driver_gpus() -> list[str]:
    """GPUs that the driver sees, each in a few words; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [printable(line, 100) for line in said.stdout.splitlines() if line.strip()]


def unseen(driver: list[str], platform: str) -> Iterator[Finding]:
    """A GPU that JAX does not use."""
    if not driver or platform != "cpu":
        return
    chosen = os.environ.get("JAX_PLATFORMS")
    fix = (
        f"unset JAX_PLATFORMS (it is {chosen!r})"
        if chosen
        else 'pip install "jax[cuda13]", or cuda12, as the driver wants'
    )
    yield Finding("warning", "GPU", f"the driver sees {driver[0]}, but JAX computes on the CPU", fix)


def room() -> Iterator[Finding]:
    """Too little memory or disk."""
    if (free := free_memory()) < LEAST_MEMORY:
        says = f"{gigabytes(free)} of memory are free"
        yield Finding(
            "warning", "memory", says, "close other programs; lower --config.data.capacity and --seeds"
        )
    if (free := shutil.disk_usage(".").free) < LEAST_DISK:
        says = f"{gigabytes(free)} are free on the disk of {Path.cwd()}, where run folders are made"
        yield Finding("warning", "disk", says, "say another folder with --out, or remove runs")


def cached() -> tuple[str, list[Finding]]:
    """The cache of compiled programs, in words, and whether it can be written."""
    if os.environ.get("POLYAK_CACHE") == "off":
        return "not kept (POLYAK_CACHE=off): every start compiles all anew", []
    folder = Path(jax.config.values.get("jax_compilation_cache_dir") or cache_folder() / "jax")
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        says = f"compiled programs cannot be kept in {folder}: every start compiles all anew"
        fix = "make it writable, or say another folder with POLYAK_CACHE=DIR"
        return f"{folder}, which cannot be written", [Finding("warning", "cache", says, fix)]
    sizes = [file.stat().st_size for file in folder.glob("*") if file.is_file()] if folder.is_dir() else []
    return f"{len(sizes):,} compiled ones, {gigabytes(sum(sizes))}, in {folder}", []


def extras() -> str:
    """Optional libraries: which are there and which are not."""
    try:
        about = metadata.metadata("polyak")
    except metadata.PackageNotFoundError:
        return "unknown: polyak is not installed as a package"
    said = []
    for extra in about.get_all("Provides-Extra") or []:
        wanted = [
            each
            for each in about.get_all("Requires-Dist") or []
            if f'extra == "{extra}"' in each.replace("'", '"')
        ]
        names = [re.split(r"[\s<>=!~;\[(]", each, maxsplit=1)[0] for each in wanted]
        missing = [name for name in names if not installed(name)]
        said.append(f"{extra} ({'without ' + ', '.join(missing) if missing else 'yes'})")
    return ", ".join(said)


def installed(package: str) -> bool:
    """Whether a package is installed."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def drawn(name: str, program: str) -> tuple[str, list[Finding]]:
    """Whether a picture can be drawn, in words; tried in a process of its own."""
    environment = UNSEEN | os.environ
    try:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program + DRAWN],
            capture_output=True, text=True, timeout=SECONDS, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no answer", [
            Finding("note", f"picture, {name}", f"{name} drew nothing within {SECONDS} s", OPENGL)
        ]
    if ran.returncode == 0:
        return f"yes, {ran.stdout.strip()}", []
    last = printable((ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1], 200)
    advice = next((said for word, said in ADVICE.items() if word in last), OPENGL)
    return "no", [Finding("note", f"picture, {name}", f"{name} cannot draw: {last}", advice)]


def video() -> tuple[str, list[Finding]]:
    """Whether videos can be written, in words."""
    try:
        import imageio_ffmpeg

        return f"yes, ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}", []
    except Exception as error:  # whatever a broken installation raises
        says = f"no video can be written: {printable(error, 200)}"
        return "no", [
            Finding("note", "video", says, "pip install imageio-ffmpeg, or watch with --out FILE.gif")
        ]
