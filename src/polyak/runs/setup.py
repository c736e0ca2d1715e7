"""How JAX is set up before anything runs."""

import contextlib
import os
import sys
import warnings
from pathlib import Path

import jax

from polyak.drivers.devices import ON_CPU
from polyak.errors import UserError

MODES = {  # of JAX, each with the values that polyak runs with, and why
    "jax_enable_x64": ((False,), "it computes in 32 bits"),
    "jax_disable_jit": ((False,), "it runs compiled programs only; jax.debug.print works inside them"),
    "jax_numpy_dtype_promotion": (("standard",), "it mixes integers and real numbers"),
    "jax_numpy_rank_promotion": (("allow", "warn"), "it adds rows to matrices"),
    "jax_default_prng_impl": (("threefry2x32",), "a run is the same wherever it is resumed"),
    "jax_threefry_partitionable": ((True,), "a run is the same wherever it is resumed"),
}


def check_modes() -> None:
    """UserError, one line, for a mode of JAX that polyak does not run with."""
    for name, (allowed, why) in MODES.items():
        value = getattr(jax.config, name, allowed[0])
        if value not in allowed:
            said = f"unset {name.upper()}" if name.upper() in os.environ else ""
            said = said or f"say jax.config.update({name!r}, {allowed[0]!r}) before"
            raise UserError(f"{name} is {value}, but polyak needs {allowed[0]}, since {why}: {said}")


def set_up_jax(devices: int = 1) -> None:
    """Keep compiled programs on disk, and run small ones on a CPU where they are called.

    devices  that a run asks for: a CPU becomes as many, if JAX has not looked yet

    A second start then compiles nothing, unless the user chose no cache (POLYAK_CACHE=off) or a folder of their
    own (JAX_COMPILATION_CACHE_DIR). Waking another thread to choose one action takes longer than choosing it; this
    has no effect in a process where JAX has computed something already.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if devices > 1 and ON_CPU not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # it has: there are as many as there are
            jax.config.update("jax_num_cpu_devices", devices)
    if os.environ.get("POLYAK_CACHE") == "off" or jax.config.values.get("jax_compilation_cache_dir"):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    unwritten = (
        "Error (reading|writing) persistent compilation cache"  # a full disk: it is compiled anew, no more
    )
    warnings.filterwarnings("ignore", unwritten)


def cache_folder() -> Path:
    """Where this user's caches are, by the platform's custom."""
    if chosen := os.environ.get("POLYAK_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "polyak"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "polyak"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "polyak"
