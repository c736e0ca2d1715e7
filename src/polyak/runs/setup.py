"""How JAX is set up before anything runs."""

import os
import sys
from pathlib import Path

import jax


def set_up_jax() -> None:
    """Keep compiled programs on disk, and run small ones on a CPU where they are called.

    A second start then compiles nothing, unless the user chose no cache (POLYAK_CACHE=off) or a folder of their
    own (JAX_COMPILATION_CACHE_DIR). Waking another thread to choose one action takes longer than choosing it; this
    has no effect in a process where JAX has computed something already.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if os.environ.get("POLYAK_CACHE") == "off" or jax.config.values.get("jax_compilation_cache_dir"):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> Path:
    """Where this user's caches are, by the platform's custom."""
    if chosen := os.environ.get("POLYAK_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "polyak"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "polyak"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "polyak"
