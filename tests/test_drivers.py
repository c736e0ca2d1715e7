"""What both drivers promise: the same bits however a run is cut, seeds side by side, known values, no surprises."""

import contextlib
import copy
import functools
import hashlib
import os
import re
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import (
    AS_USED,
    COUNTING,
    QUICK,
    arrays_of,
    as_flags,
    assert_same_bits,
    auditor,
    drive,
    saved_and_loaded,
    state_of,
)
from cases import CASE, CASES, COLLECTING, FEW, VALUED, few_now, marked

from polyak.algorithms import find as find_algorithm
from polyak.drivers import program
from polyak.drivers.evaluate import Evaluator
from polyak.drivers.in_graph import InGraph
from polyak.drivers.keys import Keys
from polyak.drivers.learn import learn
from polyak.drivers.program import Program, map_seeded
from polyak.drivers.side_by_side import SideBySide
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.find import find
from polyak.envs.worlds import probes
from polyak.wrappers import normalize_obs, normalize_reward

ROWS = 9973  # of a ring: a prime, so that a compiled text shows which arrays are rings
N = 2
RING = {"capacity": N * ROWS, "batch_size": 8, "warmup": 6, "steps": 1, "clip": None}
PLACES = ("graph", "host")
EACH = [(case.name, place) for case in CASES for place in case.places]
VALUES = [(name, place) for name, place in EACH if name in VALUED]


def host_first(name, place):
    """The few in both places at once; every other algorithm on the host in `make test`, where less is compiled."""
    return None if name in FEW else "slow" if place == "host" else "long"


def two_first(name, place):
    """Two of the few in `make check`, the others of them in `make test`: it compiles four seeds."""
    if (name, place) in (("td3", "graph"), ("dqn", "host")):
        return None
    return "slow" if name in FEW else "long"


HOST_AS_USED = [  # what `make test` compiles quickly
    pytest.param(name, place, marks=pytest.mark.long, id=f"{name}-{place}-as used")
    for name, place in EACH
    if host_first(name, place) == "slow"
]
each_case = pytest.mark.parametrize(("name", "place"), [*marked(EACH, host_first), *HOST_AS_USED])
each_of_few = pytest.mark.parametrize(("name", "place"), marked(EACH, few_now))
each_of_four = pytest.mark.parametrize(("name", "place"), marked(EACH, two_first))
each_few = pytest.mark.parametrize("name", marked(COLLECTING, few_now))


def make(name, place, seeds, env=None, algorithm=None, num_envs=N, **values):
    """A driver of an algorithm with a small config; rings have ROWS rows."""
    data = CASE[name].data({"steps": 4}, RING) | values.pop("data", {})
    cfg = CASE[name].config(data, **{"minibatch": 4, "horizon": 1000, **values})
    world = find(CASE[name].task(place)) if env is None else env
    return drive(algorithm or find_algorithm(name), cfg, world, seeds, num_envs)


def driver_of(name, place, count):
    """The driver of `count` seeds, whose programs the tests share that compile with the same options."""
    return _driver_of(name, place, count, tuple(program.COMPILER_OPTIONS.items()))


@functools.cache
def _driver_of(name, place, count, _options):
    return make(name, place, tuple(range(count)))


def seeded(driver, seeds):
    """The same programs for other seeds, of which there must be as many."""
    if isinstance(driver, InGraph):
        return driver.of(seeds)
    assert len(seeds) == len(driver.seeds)
    other = copy.copy(driver)
    other.seeds, other.seed_array = tuple(seeds), np.asarray(seeds, np.uint32)
    return other


def run(driver, *parts):
    """Start, and advance by so many iterations at a time."""
    carry = driver.start()
    for count in parts:
        carry = driver.advance(carry, count)
    return carry


# what users' programs are, in text and to the bit: all others are compiled as conftest.py says
as_used = pytest.mark.usefixtures("compiled_as_used")
few_as_used = pytest.mark.usefixtures("few_compiled_as_used")


@pytest.fixture
def few_compiled_as_used(request, name):
    """Programs of the few are what users' are, and in `make test-long` those of all algorithms."""
    if name in FEW or request.node.get_closest_marker("long"):
        request.getfixturevalue("compiled_as_used")


# ---- bits


REPLAYED = [each for each in EACH if find_algorithm(each[0]).Config().data.replays]


@as_used
@pytest.mark.parametrize(
    ("name", "place"), marked(REPLAYED, lambda name, place: "slow" if name in FEW else "long")
)
def test_what_xla_is_told_about_copies_changes_no_bit(name, place, monkeypatch):
    """A copy that it leaves out and that was needed shows as other numbers."""

    def arrays():
        driver = make(name, place, (0,))
        return arrays_of(driver, run(driver, 12))

    told = arrays()
    for option in dict(program.WITH_RING):
        monkeypatch.setitem(program.COMPILER_OPTIONS, option, False)
        monkeypatch.setitem(program.WITH_RING, option, False)
    assert_same_bits(told, arrays())


@few_as_used
@each_case
def test_how_a_run_is_cut_changes_no_bit(name, place):
    driver = driver_of(name, place, 1)
    whole = arrays_of(driver, run(driver, 60))
    assert_same_bits(arrays_of(driver, run(driver, 1, 59)), whole)
    assert_same_bits(arrays_of(driver, run(driver, *[8] * 7, 4)), whole)


@few_as_used
@each_case
def test_the_same_seed_is_the_same_run_and_another_is_another(name, place):
    driver = driver_of(name, place, 1)
    whole = arrays_of(driver, run(driver, 20))
    assert_same_bits(arrays_of(driver, run(driver, 20)), whole)
    other = arrays_of(driver, run(seeded(driver, (1,)), 20))
    floats = [key for key, x in whole.items() if key.startswith("['state']") and x.dtype.kind == "f"]
    floats = [key for key in floats if not key.endswith(".count")]  # of rows, which no seed changes
    assert [key for key in floats if whole[key].any() and (other[key] == whole[key]).all()] == []


@few_as_used
@each_case
def test_a_run_that_is_saved_and_loaded_goes_on_to_the_same_bits(name, place, tmp_path):
    """Every algorithm's short form of what test_resume.py does with whole runs: through files, in the middle."""
    driver = driver_of(name, place, 1)
    whole = arrays_of(driver, run(driver, 20))
    carry, done = driver.start(), 0
    for stop in (
        1,
        driver.warmup + 2,
        19,
    ):  # in the warm-up where there is one, just after it, and near the end
        carry = saved_and_loaded(driver, driver.advance(carry, stop - done), tmp_path)
        done = stop
    assert_same_bits(arrays_of(driver, driver.advance(carry, 1)), whole)


def mine(arrays, index):
    """One seed's share of arrays [S, ...]; lanes on the host are [S N, ...]."""
    shared = re.compile(r"clock|iteration")
    return {
        key: x if shared.search(key) else x[index]
        for key, x in arrays.items()
        if not key.startswith("['episodes']")
    }


@as_used
@each_of_four
def test_each_of_four_seeds_is_its_single_run_up_to_rounding(name, place):
    together, alone = driver_of(name, place, 4), driver_of(name, place, 1)
    iterations = together.warmup + 4
    four = arrays_of(together, run(together, iterations))
    for index in (0, 2):
        one = seeded(alone, (index,))
        single = mine(arrays_of(one, run(one, iterations)), 0)
        for key, want in single.items():
            got = mine(four, index)[key]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=key)


@as_used
@each_of_four
def test_a_seeds_neighbours_do_not_change_its_bits(name, place):
    driver = driver_of(name, place, 4)
    other = seeded(driver, (0, 7, 2, 9))
    first, second = arrays_of(driver, run(driver, 12)), arrays_of(other, run(other, 12))
    for index in (0, 2):
        assert_same_bits(mine(second, index), mine(first, index))
    different = [key for key, x in mine(first, 1).items() if (x != mine(second, 1)[key]).any()]
    assert different


# ---- what is compiled


def programs(thing):
    """The text of every Program of a driver or an evaluator that was compiled, by name."""
    for name, value in vars(thing).items():
        for key, each in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(each, Program) and each.compiled is not None:
                yield f"{name} {key}", each.text()


def whole_copies(text, rows):
    """Instructions that copy an array with so many rows, alone or fused."""
    line = re.compile(r"^\s*(?:ROOT )?%?(\S+) = (\(?\S+\[[\d,]*\]\S*) ([\w-]+)\(", re.MULTILINE)
    ring = re.compile(rf"\[(?:\d+,)*{rows}(?:,\d+)*\]")
    return [
        match.group(0).strip()
        for match in line.finditer(text)
        if ring.search(match[2]) and ("copy" in match[3] or (match[3] == "fusion" and "copy" in match[1]))
    ]


# Several batched kernels of these at once can wait for one another for ever. The symmetric eigendecomposition (syevd)
# is not among them: CMA-ES needs one in each generation, and 200 programs of six batched ones at once all returned.
LAPACK = re.compile(
    r"custom_call_target=\"(lapack_(?!\wsyevd)\w+|[^\"]*(?:geqrf|potrf|getrf|orgqr|trsm|gesdd)[^\"]*)\""
)


@few_as_used
@each_case
def test_no_program_calls_lapack_or_copies_a_ring(name, place):
    assert_in_place(name, place, 1)


@as_used
@each_of_four
def test_no_program_of_four_seeds_calls_lapack_or_copies_a_ring(name, place):
    assert_in_place(name, place, 4)


def assert_in_place(name, place, count):
    """Read all that training runs over and over."""
    driver = driver_of(name, place, count)
    for warm in (True, False) if driver.warmup else (False,):
        driver.compile(warm)
    texts = dict(programs(driver))
    for once in ("begin ", "read ", "row_keys "):  # there a copy is how two rings of zeros are made
        texts.pop(once, None)
    assert len(texts) == (2 if driver.warmup else 1) * (1 if place == "graph" else 2)
    rings = 0
    for which, text in texts.items():
        assert not LAPACK.findall(text), which
        assert not whole_copies(text, ROWS), which
        rings += bool(re.search(rf"[\[,]{ROWS}[,\]]", text))
    assert rings >= (2 if jax.tree.leaves(driver.buffer_shape()) else 0)


@as_used
@pytest.mark.parametrize(("name", "place"), [("dqn", "graph"), ("td3", "host")])
@pytest.mark.parametrize("updates", [1, 4])
def test_priorities_copy_neither_the_ring_nor_their_tree(name, place, updates):
    """The tree is written in every update, and the ring between two of them is as it was."""
    data = {"priority": 0.5, "updates": updates, "steps": 1, "capacity": 1001 * N, "batch_size": 8}
    driver = make(name, place, (0,), data=data)
    driver.compile(False)
    leaves = -(-1001 * N // 8) * 8
    texts = dict(programs(driver))
    learns = [text for text in texts.values() if re.search(rf"[\[,]{leaves}[,\]]", text)]
    assert learns
    for text in learns:
        assert not whole_copies(text, 1001)
        assert not whole_copies(text, leaves)


@as_used
@pytest.mark.parametrize(("name", "place"), [("dqn", "graph"), ("td3", "host")])
@pytest.mark.parametrize("priority", [0.0, 0.5])
def test_frames_copy_neither_the_ring_nor_their_store(name, place, priority):
    """Frames are written before the ring, in places that differ from environment to environment."""
    data = {"priority": priority, "frames": 1, "capacity": 1001 * N, "updates": 2}
    driver = make(name, place, (0,), data=data)
    driver.compile(False)
    room = driver.buffer_shape().frames.store.shape[1]
    assert 1001 < room < 1101
    texts = dict(programs(driver))
    texts.pop("begin ", None)  # runs once
    assert any(re.search(rf"[\[,]{room}[,\]]", text) for text in texts.values())
    for text in texts.values():
        assert not whole_copies(text, 1001)
        assert not whole_copies(text, room)


def test_the_search_finds_a_copied_ring_and_a_lapack_call():
    def copied(ring, row):
        return ring.at[:, 3].set(row), ring.sum() + 1

    ring, row = jnp.zeros((1, ROWS, 2)), jnp.ones((1, 2))
    assert whole_copies(jax.jit(copied).lower(ring, row).compile().as_text(), ROWS)
    in_place = jax.jit(lambda ring, row: ring.at[:, 3].set(row), donate_argnums=0)
    assert not whole_copies(in_place.lower(ring, row).compile().as_text(), ROWS)
    for function in (jnp.linalg.qr, jnp.linalg.cholesky, jnp.linalg.inv, jnp.linalg.svd):
        batched = jax.jit(jax.vmap(function))
        assert LAPACK.findall(batched.lower(jnp.zeros((3, 4, 4))).compile().as_text())


def test_as_used_is_how_programs_are_compiled_where_nobody_says_anything():

    def options_under(flags):
        said = "from jaxlib import _jax; print(_jax.CompileOptions().SerializeAsString().hex())"
        env = os.environ | {"XLA_FLAGS": flags}
        return subprocess.run([sys.executable, "-c", said], env=env, capture_output=True, check=True).stdout

    assert options_under(as_flags(AS_USED)) == options_under("") != options_under(as_flags(QUICK))


@contextlib.contextmanager
def compilations():
    """A list that grows with each program that XLA compiles meanwhile."""
    seen = []

    def listen(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def evaluator_of(driver, name, place, episodes, lanes=2):
    """An evaluator for a driver on environments of its own, on the host so many for each seed."""
    world = driver.env if place == "graph" else find(CASE[name].world).make(len(driver.seeds) * lanes)
    return Evaluator(driver.algorithm, driver.cfg, driver.spec, driver.seeds, episodes, world)


@as_used
@each_of_few
def test_training_compiles_nothing_after_the_third_update(name, place):
    assert_compiles_nothing_more(driver_of(name, place, 1))


@pytest.mark.long
@pytest.mark.parametrize(("name", "place"), EACH)
def test_training_with_normalisers_compiles_nothing_after_the_third_update(name, place):
    algorithm = normalize_reward(normalize_obs(find_algorithm(name)))
    assert_compiles_nothing_more(make(name, place, (0,), algorithm=algorithm))


def assert_compiles_nothing_more(driver):
    carry = warmed_up(driver)
    with compilations() as seen:
        for _ in range(2):
            carry = driver.advance(carry, 10)
            carry, _ = driver.report(carry)
    assert len(seen) == 0


@as_used
@each_of_few
def test_evaluation_compiles_nothing_after_the_first(name, place):
    driver = driver_of(name, place, 1)
    carry = warmed_up(driver)
    evaluator = evaluator_of(driver, name, place, 1)
    evaluator(driver.actor(carry))
    with compilations() as seen:
        for _ in range(2):
            carry = driver.advance(carry, 1)
            evaluator(driver.actor(carry))
    evaluator.close()
    assert len(seen) == 0


def warmed_up(driver):
    """A run after three updates and a report."""
    return driver.report(run(driver, driver.warmup + 3))[0]


def test_the_listener_hears_a_compilation():
    with compilations() as seen:
        jax.jit(lambda x: x * 3.25 + 1)(jnp.ones(5))
    assert seen


# ---- evaluation


@pytest.mark.parametrize(("name", "place"), [("ppo", "graph"), ("td3", "host")])
def test_evaluation_changes_nothing_is_deterministic_and_counts_episodes_per_seed(name, place):
    algorithm = normalize_reward(normalize_obs(find_algorithm(name)))
    driver = make(name, place, (5, 6), algorithm=algorithm)
    carry = run(driver, driver.warmup + 3)
    before = {key: hashlib.sha256(x.tobytes()).digest() for key, x in arrays_of(driver, carry).items()}
    evaluator = evaluator_of(driver, name, place, 3)
    first, second = evaluator(driver.actor(carry)), evaluator(driver.actor(carry))
    evaluator.close()
    after = {key: hashlib.sha256(x.tobytes()).digest() for key, x in arrays_of(driver, carry).items()}
    assert after == before
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first.total.shape == first.length.shape == (2, 3)
    if CASE[name].continuous:
        assert len(np.unique(first.total)) == 6


def test_episodes_of_an_evaluation_are_the_same_side_by_side_and_one_after_the_other():
    driver = make("dqn", "host", (5, 6))
    carry = run(driver, driver.warmup + 3)
    played = []
    for lanes in (1, 2, 5):
        evaluator = evaluator_of(driver, "dqn", "host", 5, lanes)
        played.append(evaluator(driver.actor(carry)))
        evaluator.close()
    for other in played[1:]:
        np.testing.assert_array_equal(other.length, played[0].length)
        np.testing.assert_array_equal(other.total, played[0].total)
    assert len(np.unique(played[0].length)) > 1


def test_an_evaluation_of_envpool_plays_the_same_episodes_each_time():
    pytest.importorskip("envpool")
    world = find("envpool:CartPole-v1")
    algorithm = auditor(COUNTING)  # acts at random, in every evaluation alike
    cfg, spec = algorithm.Config(), world.spec
    evaluator = Evaluator(algorithm, cfg, spec, (5, 6), 4, world.make(2 * 4))
    first, second = (evaluator(jnp.zeros(2, jnp.int32)) for _ in range(2))
    evaluator.close()
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert len(np.unique(first.length)) > 2


# ---- how often


@pytest.mark.parametrize("place", ["graph", "host"])
@pytest.mark.parametrize(
    ("warmup", "steps", "updates", "period", "warm", "target"),
    [
        # updates made after each of eight iterations are 0 in the warm-up, then `updates` each
        pytest.param(0, 1, 1, 1, 0, "11111111", marks=pytest.mark.slow),
        (6, 1, 1, 2, 3, "00001010"),
        (7, 2, 3, 4, 2, "00011101"),
        pytest.param(8, 2, 1, 3, 2, "00001001", marks=pytest.mark.slow),
    ],
)
def test_warm_up_updates_and_target_updates_come_when_they_should(
    place, warmup, steps, updates, period, warm, target
):
    data = {"capacity": 40, "batch_size": 4, "warmup": warmup, "steps": steps, "updates": updates}
    driver = make("dqn", place, (0,), data=data, period=period, lr=0.01)
    assert driver.warmup == warm
    carry, seen = driver.start(), ""
    for iteration in range(1, 9):
        before = jax.tree.map(np.array, state_of(carry).q_target)
        if iteration == 5:  # a save and a load in between
            carry = driver.unpack(*driver.pack(carry))
        carry = driver.advance(carry, 1)
        state = state_of(carry)
        made = max(0, iteration - warm) * updates
        assert int(state.clock.updates) == made
        assert int(state.clock.env_steps) == iteration * steps * N
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.q_target)
        seen += str(int(any(jax.tree.leaves(changed))))
    assert seen == target
    driver.close()


def test_delayed_policy_updates_are_every_second_one():
    driver = make("td3", "graph", (0,), data={"capacity": 40})
    carry, seen = driver.start(), ""
    for _ in range(9):
        before = jax.tree.map(np.array, (state_of(carry).actor, state_of(carry).critics_target))
        carry = driver.advance(carry, 1)
        after = (state_of(carry).actor, state_of(carry).critics_target)
        changed = [
            any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), x, y)))
            for x, y in zip(before, after, strict=True)
        ]
        assert changed[0] == changed[1]
        seen += str(int(changed[0]))
    assert seen == "000010101"


# ---- known values


class ConstantGym(gymnasium.Env):
    """Observation 0 and reward 1 for ever: `polyak.envs.worlds.probes.Constant`."""

    def __init__(self, continuous=False):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = box if continuous else gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


def value(name, carry, obs):
    """V(obs) of what was learned, by the first seed."""
    state = map_seeded(lambda x: x[0], state_of(carry))
    return float(CASE[name].value(state, jnp.asarray([[obs]], jnp.float32))[0])


def few_in_graph(name, place):
    """The few in graph in `make test`; of every algorithm the contract has the short form."""
    return "slow" if name in FEW and place == "graph" else "long"


@pytest.mark.parametrize(("name", "place"), marked(VALUES, few_in_graph))
def test_a_time_limit_is_not_the_end_of_the_world(name, place):
    continuous = CASE[name].continuous
    env = probes.Constant(continuous=continuous)
    if place == "host":
        env = GymnasiumFactory(
            "Constant", {"continuous": continuous, "max_episode_steps": 10}, entry=ConstantGym
        )
    assert env.spec.time_limit == 10
    driver = make(name, place, (0,), env, **CASE[name].learns)
    carry = run(driver, CASE[name].constant)
    driver.close()
    assert abs(value(name, carry, 0.0) - 100) < 1


PROBES = [
    probes.ConstantReward,
    probes.ObsReward,
    probes.TwoStep,
    probes.ActionReward,
    probes.ObsActionReward,
]


LADDER = [(name, probe) for name in VALUED for probe in PROBES]


@pytest.mark.parametrize(  # who stands on the highest rung has climbed: the others say where one fell
    ("name", "probe"),
    marked(LADDER, lambda name, probe: "slow" if probe is PROBES[-1] and name in FEW else "long"),
)
def test_the_value_of_each_rung_of_the_ladder_is_learned(name, probe):
    learns = {**CASE[name].learns, "gamma": 0.9}
    if name not in FEW:  # a warm-up is a program more to compile
        learns["data"] = learns["data"] | CASE[name].data({}, {"warmup": 0})
    env = probe(continuous=CASE[name].continuous)
    driver = make(name, "graph", (0,), env, num_envs=4, **learns)
    seen = {probes.ObsReward: (-1.0, 1.0), probes.TwoStep: (0.0, 1.0), probes.ObsActionReward: (-1.0, 1.0)}
    carry = run(driver, CASE[name].rungs)
    for obs in seen.get(probe, (0.0,)):
        at = jnp.asarray([obs], jnp.float32)
        want = float(env.action_value(at, env.best_action(at), 0.9))
        got = value(name, carry, obs)
        assert abs(got - want) < 0.05


@pytest.mark.parametrize(
    "name", marked([name for name in COLLECTING if name not in VALUED], lambda name: "long")
)
def test_who_knows_no_value_finds_the_best_actions_of_the_highest_rung(name):
    algorithm, env = find_algorithm(name), probes.ObsActionReward(continuous=CASE[name].continuous)
    driver = make(name, "graph", (0,), env, num_envs=4, **CASE[name].learns)
    state = map_seeded(lambda x: x[0], state_of(run(driver, CASE[name].rungs)))
    obs, zeros = jnp.asarray([[-1.0], [1.0]], jnp.float32), jnp.zeros(2, jnp.int32)
    memory = algorithm.memory(driver.cfg, driver.spec, zeros, zeros, jax.random.key(0))
    actor = algorithm.actor(state)
    action = algorithm.act(driver.cfg, driver.spec, actor, memory, obs, jax.random.key(1), False)[0]
    for at, chosen in zip(obs, action, strict=True):
        best = env.action_value(at, env.best_action(at), 0.9)
        assert float(best - env.action_value(at, chosen, 0.9)) < 0.05


# ---- seeds side by side


def side_by_side(name, seeds):
    """Three seeds on two threads, with the settings of `driver_of`."""
    one = driver_of(name, "graph", 1)
    return SideBySide(one.algorithm, one.cfg, one.env, one.spec, seeds, threads=2)


@as_used
@each_few
def test_seeds_side_by_side_are_their_single_runs_to_the_bit(name):
    driver, alone = side_by_side(name, (5, 0, 3)), driver_of(name, "graph", 1)
    iterations = driver.warmup + 9
    arrays = arrays_of(driver, run(driver, 4, iterations - 4))
    for index, seed in enumerate(driver.seeds):
        one = alone.of((seed,))
        assert_same_bits(mine(arrays, index), mine(arrays_of(one, run(one, iterations)), 0))
    driver.close()


@as_used
def test_seeds_side_by_side_are_compiled_once_packed_and_unpacked():
    driver = side_by_side("td3", (5, 0, 3))
    with compilations() as seen:
        carry = driver.start()
    assert len(seen) <= 4  # drawing parameters, stacking them, and beginning: for all three
    with compilations() as seen:
        driver.compile(True)
        driver.compile(False)
        carry = driver.advance(carry, driver.warmup + 3)
    assert len(seen) == 2  # warm-up and learning, for all three
    tree, extra = driver.pack(carry)
    arrays = jax.tree.map(lambda x: np.array(x), tree)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), driver.template(extra))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), arrays) == shapes
    again = driver.unpack(arrays, extra)
    carry, again = driver.advance(carry, 5), driver.advance(again, 5)
    assert_same_bits(arrays_of(driver, again), arrays_of(driver, carry))
    carry, report = driver.report(carry)
    assert report["updates"].tolist() == [8, 8, 8]
    assert driver.report(carry)[1]["updates"].tolist() == [0, 0, 0]
    assert {x.shape[0] for x in jax.tree.leaves(driver.actor(carry))} == {3}
    driver.close()


# ---- what was made fast, beside what is plain


@as_used
@each_few
def test_the_compiled_learn_of_the_host_is_the_plain_one(name):
    """Donated, batched over seeds and with other products, against `learn` as it is written, rollout by rollout."""
    driver = driver_of(name, "host", 1)
    carry = driver.start()
    for _ in range(driver.warmup):
        carry = driver.advance(carry, 1)

    @jax.jit
    def plain(state, buffer, rollout, iteration):
        key = jax.random.fold_in(Keys.of(0).learn, iteration)
        return learn(driver.algorithm, driver.cfg, driver.spec, state, buffer, rollout, key)

    def learned(carry):
        """State and ring of the one seed, copied."""
        both = map_seeded(lambda x: x[0], (carry.learner.tree.state, carry.learner.tree.buffer))
        return jax.tree.map(lambda x: np.array(x), both)

    own = learned(carry)
    for _ in range(5):
        iteration = carry.iteration
        rollout = driver._collect(carry, False)
        extras = jax.tree.map(lambda x: np.array(x[0]), carry.act_state.tree.extras)
        carry.learner.leaves, carry.act_input.leaves, carry.act_state.leaves = driver.learn[False](
            carry.learner.leaves, carry.act_input.leaves, carry.act_state.leaves, rollout, driver.seed_array
        )
        carry.iteration += 1
        state, buffer, _ = plain(*own, rollout._replace(extras=extras), iteration)
        own = learned(carry)
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6),
            own,
            (state, buffer),
        )
    assert carry.iteration == driver.warmup + 5
