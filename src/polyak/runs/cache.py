"""JAX's persistent compilation cache, in the user's cache folder: a second start compiles nothing."""

import os
import sys
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Turn it on, unless the user chose a folder (JAX_COMPILATION_CACHE_DIR) or none (POLYAK_CACHE=off)."""
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
