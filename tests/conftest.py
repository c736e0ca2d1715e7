"""What every test runs under: shapes checked, keys used once, warnings as errors, no display.

Programs are compiled once for the whole suite: its processes share a cache on disk, which goes when the suite ends.
All are compiled as `QUICK` says: tests of what users' programs are compiled to, and of their bits, ask for `AS_USED`.
A file's tests run in one process, those of a long file algorithm by algorithm: what is traced and made for them is
made once.
"""

import atexit
import os
import signal

from polyak.temporary import TemporaryFolder

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ["POLYAK_CACHE"] = "off"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = TemporaryFolder()
    atexit.register(cache.close)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.path
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

install_import_hook(["polyak.parts"], "beartype.beartype")


import jax
import pytest
from auditing import AS_USED, QUICK, as_flags

from polyak.algorithms import names
from polyak.drivers import program
from polyak.envs import unseen

plain = os.environ["XLA_FLAGS"]
os.environ["XLA_FLAGS"] = f"{plain} {as_flags(QUICK)}"
jax.devices()  # XLA reads its flags here, once
os.environ["XLA_FLAGS"] = plain  # for the processes that tests start: they run as users run them
program.COMPILER_OPTIONS.update(QUICK)  # also where a driver's workers are processes

NAMES = frozenset(names())
SPREAD = {
    "tests/test_contract.py",
    "tests/test_drivers.py",
    "tests/test_resume.py",
}  # too long for one process


def share_of(nodeid):
    """The tests that run in one process, one after the other: a file's, or of a long one those of an algorithm."""
    file, _, test = nodeid.partition("::")
    _, _, parameters = test.partition("[")
    named = [word for word in parameters.rstrip("]").split("-") if word in NAMES]
    return f"{file} {named[0]}" if named and file in SPREAD else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Shares go to the processes in the order of their files: the last are small, so that none waits long."""
    from xdist.scheduler import LoadScopeScheduling

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return share_of(nodeid)

        def remove_node(self, node):
            """What a process that died had yet to do goes to the others, but for the test that it died of.

            xdist hands that one on too, and waits for ever once it has ended every process.
            """
            units = self.assigned_work.pop(node)
            died_of = next((test for unit in units.values() for test, done in unit.items() if not done), None)
            for unit in units.values():
                unit.update({died_of: True} if died_of in unit else {})
            self.workqueue.update({name: unit for name, unit in units.items() if not all(unit.values())})
            for other in self.assigned_work:
                self._reschedule(other)
            return died_of

    config.option.loadscopereorder = False
    return Shares(config, log)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_forgotten():
    """What a file's tests compiled is let go: a process may map so much memory, in pieces that are not too many."""
    yield
    jax.clear_caches()


@pytest.fixture
def compiled_as_used(monkeypatch):
    """Drivers' programs are compiled as users' are: where their text or their bits are looked at."""
    for name, value in AS_USED.items():
        monkeypatch.setitem(program.COMPILER_OPTIONS, name, value)


@pytest.fixture
def no_driver_chosen(monkeypatch):
    """As if the user had chosen no SDL driver; what is hidden meanwhile is forgotten with the test."""
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setattr(unseen, "hidden", set())


@pytest.fixture(scope="module")
def draws_nothing():
    """Runs leave out the picture of their curve, where nobody looks at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyak.runs.execute.draw", lambda folder, terminal: None)
        yield


@pytest.fixture(autouse=True)
def _keys_are_used_once(request):
    """A key that is used twice is an error; `@pytest.mark.keys_unchecked` where another's code does it."""
    if request.node.get_closest_marker("keys_unchecked"):
        yield
        return
    with jax.debug_key_reuse(True):
        yield
