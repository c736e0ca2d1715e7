"""What every test runs under: shapes checked, keys used once, warnings as errors, no display, no shared cache."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ["POLYAK_CACHE"] = "off"

from jaxtyping import install_import_hook

install_import_hook(["polyak.parts"], "beartype.beartype")


import jax
import pytest


@pytest.fixture(autouse=True)
def _keys_are_used_once(request):
    """A key that is used twice is an error; `@pytest.mark.keys_unchecked` where another's code does it."""
    if request.node.get_closest_marker("keys_unchecked"):
        yield
        return
    with jax.debug_key_reuse(True):
        yield
