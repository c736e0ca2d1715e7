"""Workers: the bits of one process, whatever is lost; nothing twice, nothing left, nothing open to others.

One Ray serves the quick tests. What begins one of its own takes twelve seconds, and is `long`.
"""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from auditing import COUNTING, arrays_of, assert_same_bits, auditor, drive, saved_and_loaded, state_of
from auditing import Config as AuditConfig
from cases import CASE
from counting_gym import CountingGym
from troubled_gym import AbsentGym, LargeGym, SlowGym, TroubledGym

from polyak.algorithms import find as find_algorithm
from polyak.cli import main
from polyak.drivers import distributed
from polyak.drivers.arrival import Arrival
from polyak.drivers.cluster import LOCAL, SILENT, Cluster
from polyak.drivers.devices import Devices
from polyak.drivers.distributed import Distributed
from polyak.drivers.lanes import Rollout, joined, places, slots_of
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.find import find
from polyak.envs.on_host import OnHost
from polyak.envs.worlds.counting import Counting
from polyak.errors import EnvironmentFault
from polyak.interface import Replay, Transition
from polyak.parts.replay import turns
from polyak.pytree import Counter
from polyak.temporary import TemporaryFolder

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what Ray listens at is looked up in /proc"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
LANES = 4


def listening():
    """Addresses that somebody on this machine listens at, as the kernel writes them."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        found |= {row[1] for row in rows if row[3] == "0A"}
    return found


def rays(mark=""):
    """Numbers of the processes of Ray's on this machine, or of those whose environment has a mark."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            marked = mark.encode() in (path.with_name("environ").read_bytes() if mark else b"")
        except OSError:
            continue
        if marked and (b"ray::" in words or b"/ray/" in words):
            found.add(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def cluster():
    before = listening()
    cluster = Cluster(workers=4)
    cluster.opened = listening() - before
    yield cluster
    cluster.close()


def counting(**fields):
    return GymnasiumFactory("Counting", fields, entry=CountingGym)


def crew(algorithm, cfg, world, seeds=(0,), workers=2, kind=Distributed, **more):
    """The driver with workers."""
    spec = dataclasses.replace(world.spec, num_envs=LANES)
    return kind(algorithm, cfg, world, spec, seeds, workers=workers, **more)


def after(driver, iterations, each=3):
    """Every array of a run after so many iterations."""
    run = driver.start()
    for done in range(0, iterations, each):
        run = driver.advance(run, min(each, iterations - done))
    arrays = arrays_of(driver, run)
    driver.close()
    return arrays


def config(name):
    data = CASE[name].data({"steps": 8}, {"capacity": 240, "batch_size": 8, "warmup": 32, "steps": 2})
    return CASE[name].config(data, **{"minibatch": 8} if name == "ppo" else {})


# ---- parts


def test_lanes_of_workers_are_joined_in_the_order_of_environments():
    parts = places(6, 3)
    assert [place.first for place in parts] == [0, 2, 4]
    of_all = np.arange(2 * 6).reshape(1, 12)  # two seeds of six environments
    own = [of_all[:, slots_of(place, 2, 6)] for place in parts]
    assert own[1].tolist() == [[2, 3, 8, 9]]
    assert joined(own, 2, axis=1).tolist() == of_all.tolist()


def test_workers_draw_other_numbers_than_each_other_and_the_first_what_one_process_draws():
    from polyak.drivers.keys import Keys

    keys = [Keys.of(3, worker) for worker in range(4)]
    plain = Keys.of(3)
    for name in ("act", "uniform", "memory"):
        numbers = {tuple(jax.random.key_data(getattr(each, name)).tolist()) for each in keys}
        assert len(numbers) == 4
        assert (
            jax.random.key_data(getattr(keys[0], name)) == jax.random.key_data(getattr(plain, name))
        ).all()
    for name in ("init", "learn", "env", "evaluate"):
        assert len({tuple(jax.random.key_data(getattr(each, name)).tolist()) for each in keys}) == 1


# ---- a ring with a clock for each worker


WORKERS, OWN, SLOTS, STEPS = 3, 2, 12, 4  # two environments each; a rollout of four rows is one rectangle


def filled(order, data):
    """A ring in which workers' rollouts arrived in this order, and what was written: (worker, row) -> number."""
    number = jax.ShapeDtypeStruct((WORKERS * OWN,), np.float32)
    flag = jax.ShapeDtypeStruct((WORKERS * OWN,), bool)
    row = Transition(number, number, number, number, flag, flag)
    ring = turns.empty(row, SLOTS, data, WORKERS)
    made = np.zeros(WORKERS, int)
    add = jax.jit(lambda ring, rollout: turns.add(ring, rollout, data))
    for worker in order:
        time = made[worker] + np.arange(STEPS)[:, None]
        value = (1000 * (worker * OWN + np.arange(OWN)) + time).astype(np.float32)
        never = np.zeros(value.shape, bool)
        ring = add(
            ring.replace(worker=Counter(np.int32(worker))),
            Transition(value, value, value, value + 1, never, never),
        )
        made[worker] += STEPS
    return ring, made


ORDERS = [[0], [2, 2, 2, 2, 1], [0, 1, 2, 0, 0, 0, 0, 1], [1, 1, 2, 1, 0, 2, 2, 1, 1, 1]]


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_drawn_alike_whatever_order_rollouts_arrived_in(order):
    key, count = jax.random.key(len(order)), 20_000
    data = Replay(batch_size=count, n_step=3)
    ring, made = filled(order, data)
    batch = jax.jit(lambda key: turns.sample(ring, (), key, data, 0.5)[0])(key)
    held = {1000 * env + t for env in range(6) for t in range(max(0, made[env // 2] - SLOTS), made[env // 2])}
    rows, counts = np.unique(np.asarray(batch.obs), return_counts=True)
    assert set(rows.astype(int)) == held
    assert np.abs(counts - count / len(held)).max() < 6 * np.sqrt(count / len(held))
    env, time = np.asarray(batch.obs).astype(int) // 1000, np.asarray(batch.obs).astype(int) % 1000
    steps = np.minimum(3, made[env // 2] - time)  # a window ends at its own worker's newest row
    assert (np.asarray(batch.next_obs) == np.asarray(batch.obs) + steps).all()
    assert (np.asarray(batch.discount) == 0.5**steps).all()


@pytest.mark.parametrize("order", ORDERS)
def test_priorities_stand_where_rows_do(order):
    data = Replay(priority=0.5, batch_size=4096, n_step=1)
    ring, made = filled(order, data)
    sample = jax.jit(lambda key: turns.sample(ring, ring.ring.index, key, data, 0.5))
    batch, leaf = sample(jax.random.key(1))
    held = {1000 * env + t for env in range(6) for t in range(max(0, made[env // 2] - SLOTS), made[env // 2])}
    rows, counts = np.unique(np.asarray(batch.obs), return_counts=True)
    assert set(rows.astype(int)) == held
    assert (
        np.abs(counts - 4096 / len(held)).max() <= 1.5
    )  # all priorities are equal, and draws are stratified
    assert np.allclose(np.asarray(batch.weight), 1.0)
    at = np.asarray(leaf)
    assert (np.asarray(ring.ring.rows.obs)[at // 6, at % 6] == np.asarray(batch.obs)).all()


def test_a_cut_ends_the_newest_row_of_each_clock():
    ring, _ = filled([0, 1, 1], Replay())
    after = turns.cut(ring, np.array([True, False, True, False, True, False]))
    assert [tuple(place) for place in np.argwhere(np.asarray(after.ring.rows.truncated))] == [(3, 0), (7, 2)]


# ---- environments in JAX


def test_an_environment_in_jax_is_stepped_like_others():
    """Episodes are functions of their seeds, end at the time limit, and begin anew where asked."""
    world = OnHost(Counting(max_length=9, time_limit=5))
    three, alone = world.make(3), world.make(1)
    obs, own = three.reset([0, 1, 2], [11, 12, 13]), alone.reset([0], [13])
    for t in range(5):
        assert np.array_equal(obs[2:], own)
        assert obs[:, 2].tolist() == [t, t, t]
        given, single = three.step(np.zeros(3, np.int32)), alone.step(np.zeros(1, np.int32))
        for x, y in zip(given[:4], single[:4], strict=True):
            assert np.array_equal(x[2:], y)
        assert given.reward.dtype == np.float64
        assert given.reward.tolist() == [t + 1] * 3
        assert not (given.terminated & given.truncated).any()
        obs, own = given.obs, single.obs
    assert (given.terminated | given.truncated).all()
    after = three.reset([1], [99])
    assert np.array_equal(after[[0, 2]], obs[[0, 2]])
    assert after[1, 2] == 0
    assert not np.array_equal(after[1, :2], obs[1, :2])


@pytest.mark.long
def test_workers_play_environments_in_jax_without_a_gap(cluster):
    cfg = AuditConfig(data=Replay(capacity=400, batch_size=16, warmup=40, steps=5, n_step=3, uniform=False))
    driver = crew(auditor(COUNTING), cfg, OnHost(Counting(max_length=20)))
    found = state_of(driver.advance(driver.start(), 20))
    assert int(found.rows[0]) == 20 * 5 * LANES
    assert int(found.gaps[0]) == int(found.wrong[0]) == 0
    driver.close()


# ---- the same bits


@pytest.mark.parametrize("name", ["ppo", pytest.param("td3", marks=pytest.mark.long)])
def test_one_worker_gives_the_bits_of_the_host_driver(cluster, name):
    algorithm, cfg = find_algorithm(name), config(name)
    world = counting(continuous=name == "td3")
    want = after(drive(algorithm, cfg, world, (0, 5), LANES), 9)
    assert_same_bits(after(crew(algorithm, cfg, world, (0, 5), workers=1), 9), want)


@pytest.fixture(scope="module")
def undisturbed(cluster):
    """What was saved after 3 rollouts of a run with two workers and two seeds, and every array after 9."""
    driver = crew(find_algorithm("ppo"), config("ppo"), counting(), (0, 5))
    run = driver.advance(driver.start(), 3)
    tree, extra = driver.pack(run)
    tree = jax.tree.map(np.array, tree)
    arrays = arrays_of(driver, driver.advance(run, 6))
    driver.close()
    return (tree, extra), arrays


def test_an_actor_of_few_bytes_travels_in_the_call_and_gives_the_same_bits(cluster):
    import ray

    found = []
    for in_call, kind in ((0, ray.ObjectRef), (1 << 20, tuple)):
        driver = crew(find_algorithm("ppo"), config("ppo"), counting())
        run = driver.start()
        driver.cluster.in_call = in_call
        assert isinstance(driver._send(driver.actor(run)), kind)
        found.append(arrays_of(driver, driver.advance(run, 3)))
        driver.close()
    assert_same_bits(*found)


@pytest.mark.long
def test_a_cluster_of_ones_own_takes_an_actor_in_the_call():
    """In a process of its own, which begins its own Ray."""
    command = [sys.executable, "-c", "import test_distributed; test_distributed.of_ones_own()"]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=200)


def of_ones_own():
    driver = crew(find_algorithm("ppo"), config("ppo"), counting())
    run = driver.start()
    assert isinstance(driver._send(driver.actor(run)), tuple)
    assert driver.advance(run, 3).iteration == 3
    driver.close()


def test_whatever_befalls_workers_the_bits_are_those_of_the_undisturbed_run(undisturbed, tmp_path):
    fields = {"folder": str(tmp_path), "how": "killed raising hanging"}
    world = GymnasiumFactory("Troubled", fields, entry=TroubledGym)
    driver = crew(find_algorithm("ppo"), config("ppo"), world, (0, 5), deadline=4.0)
    assert_same_bits(after(driver, 9), undisturbed[1])
    assert len(list(tmp_path.iterdir())) == 3
    assert driver.ledger.void == 3
    assert driver.ledger.issued == driver.ledger.accepted + driver.ledger.void == 9 * 2 + 3
    assert "was lost" in driver.notes["lost"]


def test_a_slow_worker_is_waited_for_and_no_bit_differs(undisturbed, tmp_path):
    fields = {"folder": str(tmp_path), "seconds": 0.02}
    world = GymnasiumFactory("Slow", fields, entry=SlowGym)
    driver = crew(find_algorithm("ppo"), config("ppo"), world, (0, 5), deadline=30.0)
    assert_same_bits(after(driver, 9), undisturbed[1])
    assert len(list(tmp_path.iterdir())) == 1
    assert driver.ledger == distributed.Ledger(issued=18, accepted=18, void=0)


def test_a_run_that_is_loaded_between_rollouts_has_the_same_bits(undisturbed):
    driver = crew(find_algorithm("ppo"), config("ppo"), counting(), (0, 5))
    run = driver.unpack(*undisturbed[0])
    assert_same_bits(arrays_of(driver, run), dict(packed_arrays(undisturbed[0][0])))
    got = arrays_of(driver, driver.advance(run, 6))
    assert driver.inexact == []
    driver.close()
    assert_same_bits(got, undisturbed[1])


def packed_arrays(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), np.array(leaf)) for path, leaf in leaves]


@pytest.mark.long
def test_workers_that_play_ahead_keep_every_bit_too(cluster):
    driver = crew(find_algorithm("ppo"), config("ppo"), counting(), lag=1)
    run = driver.advance(driver.start(), 3)
    tree, extra = driver.pack(run)
    tree = jax.tree.map(np.array, tree)
    want = arrays_of(driver, driver.advance(run, 4))
    driver.close()
    driver = crew(find_algorithm("ppo"), config("ppo"), counting(), lag=1)
    assert_same_bits(arrays_of(driver, driver.advance(driver.unpack(tree, extra), 4)), want)
    driver.close()


@pytest.mark.long
def test_rollouts_have_no_gap_and_no_row_twice(cluster):
    world = counting()
    cfg = AuditConfig(data=Replay(capacity=400, batch_size=16, warmup=40, steps=5, n_step=3, uniform=False))
    driver = crew(auditor(COUNTING), cfg, world, lag=1)
    run = driver.advance(driver.start(), 20)
    found = state_of(run)
    assert int(found.rows[0]) == 20 * 5 * LANES
    assert int(found.gaps[0]) == int(found.wrong[0]) == 0
    assert int(found.drawn[0]) == 18 * 16  # batches of 16, after two rollouts of warm-up
    rows = np.asarray(run.learner.tree.buffer.rows.obs)[0, :100].reshape(-1, 3)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert driver.ledger.issued == driver.ledger.accepted + 2  # lag: one ticket each is out
    driver.close()


ARRIVING = AuditConfig(data=Replay(capacity=400, batch_size=16, warmup=40, steps=5, n_step=3, uniform=False))


def test_rollouts_that_arrive_in_any_order_make_no_window_of_two_episodes(cluster, tmp_path):
    fields = {"folder": str(tmp_path), "how": "killed", "at": 60}
    world = GymnasiumFactory("Troubled", fields, entry=TroubledGym)
    driver = crew(auditor(COUNTING), ARRIVING, world, kind=Arrival)
    run = driver.advance(driver.start(), 20)
    assert len(list(tmp_path.iterdir())) == 1
    assert_sound(driver, run)
    driver.close()


def test_a_slow_worker_holds_nobody_up_where_rollouts_are_taken_as_they_arrive(cluster, tmp_path):
    fields = {"folder": str(tmp_path), "seconds": 0.1}
    driver = crew(auditor(COUNTING), ARRIVING, GymnasiumFactory("Slow", fields, entry=SlowGym), kind=Arrival)
    run = driver.advance(driver.start(), 20)
    slow, fast = sorted(np.asarray(run.learner.tree.buffer.ring.clock.value).tolist())
    assert fast >= 3 * slow
    assert driver.ledger.void == 0
    assert_sound(driver, run)
    driver.close()


def assert_sound(driver, run):
    """20 rollouts of 5 x 2 rows of two environments, of which none is twice in the ring."""
    found, ring = state_of(run), run.learner.tree.buffer.ring
    clock = np.asarray(ring.clock.value)
    assert int(found.rows[0]) == 20 * 5 * LANES == 2 * clock.sum()
    assert int(found.wrong[0]) == 0
    assert int(found.drawn[0]) == 18 * 16  # batches of 16, after two rollouts of warm-up
    held = [np.asarray(ring.rows.obs)[0, : min(c, 100), 2 * w : 2 * w + 2] for w, c in enumerate(clock)]
    rows = np.concatenate([rows.reshape(-1, 3) for rows in held])
    assert len(np.unique(rows, axis=0)) == len(rows)
    out = sum(call.ticket is not None for hand in driver.hands for call in hand.calls)
    assert driver.ledger.issued == driver.ledger.accepted + driver.ledger.void + out


@pytest.mark.long
def test_a_ring_of_rollouts_that_arrived_is_saved_and_loaded(cluster):
    driver = crew(auditor(COUNTING), ARRIVING, counting(), kind=Arrival)
    run = driver.advance(driver.start(), 8)
    arrays = arrays_of(driver, run)
    tree, extra = driver.pack(run)
    tree = jax.tree.map(np.array, tree)
    driver.close()
    driver = crew(auditor(COUNTING), ARRIVING, counting(), kind=Arrival)
    run = driver.unpack(tree, extra)
    assert_same_bits(arrays_of(driver, run), arrays)
    run = driver.advance(run, 12)
    assert_sound(driver, run)
    assert driver.inexact == []
    driver.close()


# ---- what a person is told


def test_an_environment_that_fails_for_ever_ends_the_run_with_its_own_words(cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "REPLACEMENTS", 1)
    fields = {"folder": str(tmp_path), "how": "raising", "at": 10, "always": True}
    world = GymnasiumFactory("Troubled", fields, entry=TroubledGym)
    driver = crew(find_algorithm("ppo"), config("ppo"), world, workers=1)
    run = driver.start()
    with pytest.raises(EnvironmentFault, match=r"environment [0-3], seed 0: .*the plug was pulled") as error:
        driver.advance(run, 4)
    assert "\n" not in str(error.value)
    driver.close()


def test_a_worker_that_never_begins_is_replaced_and_given_up_in_one_line(cluster, monkeypatch):
    monkeypatch.setattr(distributed, "START_SECONDS", 2.0)
    monkeypatch.setattr(distributed, "REPLACEMENTS", 1)
    world = GymnasiumFactory("Absent", {"pid": os.getpid()}, entry=AbsentGym)
    driver = crew(find_algorithm("ppo"), config("ppo"), world, workers=1, deadline=0.5)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"worker 0 was lost 2 times in a row: .* no answer for 2.5 s"):
        driver.start()
    assert time.monotonic() - began < 30
    driver.close()
    wait_for(lambda: not players(), 10)


def players():
    """Numbers of the processes in which Ray's workers play."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in rays()}
    return [pid for pid, path in commands.items() if path.exists() and b"ray::Worker" in path.read_bytes()]


@pytest.mark.parametrize("whose", ["the learner's", "the worker's"])
def test_a_full_object_store_ends_the_run_in_one_line(cluster, monkeypatch, tmp_path, whose):
    """As Ray says it once it can neither evict nor spill."""
    import ray
    from ray.exceptions import ObjectStoreFullError

    monkeypatch.setattr(distributed, "REPLACEMENTS", 1)
    driver = crew(find_algorithm("ppo"), config("ppo"), counting(), workers=1)
    run = driver.advance(driver.start(), 1)
    real, full = ray.get, ObjectStoreFullError("the object store is full")

    def put(_):
        raise full

    def get(ref):
        given = real(ref)
        if isinstance(given, Rollout):
            raise full
        return given

    monkeypatch.setattr(ray, *(("put", put) if whose == "the learner's" else ("get", get)))
    with pytest.raises(EnvironmentFault, match="object store is full") as error:
        driver.advance(run, 1)
    assert "\n" not in str(error.value)
    driver.close()


def test_what_listens_listens_on_loopback(cluster):
    assert cluster.opened, "Ray listens somewhere"
    loopback = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
    assert [address for address in cluster.opened if not address.startswith(loopback)] == []
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_nobody_else_can_look_into_the_folder_that_ray_opens_to_all(cluster):
    path = Path(cluster.folder.path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert sorted(each.name for each in path.iterdir()) == ["owner", "r"]
    assert list(path.glob("r/session_*/sockets/*"))


def said(capsys, *words):
    """The one line that a command ends with, and its exit code."""
    code = main(["train", "ppo", "CartPole-v1", "--driver", "ray", "--steps", "64", *words])
    lines = capsys.readouterr().err.strip().splitlines()
    return code, lines[-1], [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--address", "nowhere"), "must be HOST:PORT"),
        (("--address", "127.0.0.1:1"), "no Ray cluster answers"),
        (("--workers", "3", "--actors", "4"), "must divide"),
        (("--actors", "3", "--num-envs", "4"), "say one"),
        (("--vectorization", "async"), "not for --driver ray"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, tmp_path, words, expected):
    monkeypatch.chdir(tmp_path)
    code, line, traces = said(capsys, *words)
    assert (code, traces) == (2, [])
    assert expected in line, line


def test_without_the_extra_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "ray" else real(name, *more),
    )
    assert said(capsys)[:2] == (
        2,
        "polyak: --driver ray needs Ray, which is not installed: pip install 'polyak[ray]'",
    )


def test_where_ray_was_imported_before_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    code, line, _ = said(capsys)
    assert code == 2
    assert "already imported" in line


def test_flags_of_workers_are_for_workers(capsys):
    assert main(["train", "ppo", "CartPole-v1", "--workers", "2", "--steps", "64"]) == 2
    assert "by --driver ray" in capsys.readouterr().err
    assert main(["train", "ppo", "CartPole-v1", "--lag", "1", "--steps", "64"]) == 2
    assert "--lag is for --driver ray" in capsys.readouterr().err


# ---- a command of its own


RUN = ["--driver", "ray", "--workers", "2", "--actors", "4", "--steps", "16384", "--config.data.steps", "128"]
RUN += ["--no-preset", "--eval-every", "0", "--checkpoint-every", "1024"]


def polyak(folder, *words, wait=True):
    """A command line in a process of its own, which Ctrl-C of this one does not reach."""
    command = [sys.executable, "-m", "polyak", *words]
    going = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return (*going.communicate(timeout=300), going.returncode) if wait else going


def lines_of(folder):
    path = folder / "runs" / "stopped" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(what, seconds):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_driver_leaves_nothing_and_goes_on_to_the_same_digest(tmp_path, monkeypatch, how):
    before, place = rays(), TemporaryFolder()  # paths of Ray's sockets have a limit
    monkeypatch.setenv("TMPDIR", place.path)
    train = ["train", "ppo", "CartPole-v1", *RUN]
    out, err, code = polyak(tmp_path, *train, "--name", "whole")
    assert code == 0, err
    assert "raylet" not in out
    assert rays() == before
    going = polyak(tmp_path, *train, "--name", "stopped", wait=False)
    wait_for(lambda: len(lines_of(tmp_path)) > 3, 120)
    going.send_signal(how)
    out, err = going.communicate(timeout=60)
    assert going.returncode == (130 if how == signal.SIGTERM else -how), err
    assert len(list(Path(place.path).glob("polyak-*"))) == (how == signal.SIGKILL)
    assert len(lines_of(tmp_path)) < 150, "it was through before it was stopped"
    out, err, code = polyak(tmp_path, "resume", "runs/stopped")
    assert code == 0, err
    digests = [polyak(tmp_path, "digest", f"runs/{name}")[0].strip() for name in ("whole", "stopped")]
    assert digests[0] == digests[1]
    wait_for(lambda: rays() <= before, 90)
    assert list(Path(place.path).glob("polyak-*")) == []  # what a kill had left was swept by the resume
    place.close()


@pytest.mark.long
@pytest.mark.parametrize("name", ["ppo", "td3"])
def test_what_workers_play_is_learned_from_on_two_devices(cluster, name, tmp_path):
    algorithm, cfg = find_algorithm(name), config(name)
    world = find(CASE[name].world)
    one, two = (crew(algorithm, cfg, world, devices=each) for each in (None, Devices(2, LANES)))
    want = one.advance(one.start(), 8)
    got = saved_and_loaded(two, two.advance(two.start(), 5), tmp_path)
    got = two.advance(got, 3)
    for mine, theirs in zip(
        *(jax.tree.leaves(d.learned(run)) for d, run in ((two, got), (one, want))), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    one.close()
    two.close()


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_twenty_kills_of_the_driver_leave_no_orphan_and_change_no_bit(tmp_path, monkeypatch):
    """Killed at any moment: while Ray starts, while environments come back, in a rollout."""
    before, place, rng = rays(), TemporaryFolder(), np.random.default_rng(0)
    monkeypatch.setenv("TMPDIR", place.path)
    run = [str(1 << 19) if word == "16384" else word for word in RUN]  # more than it comes to in the meantime
    train = ["train", "ppo", "CartPole-v1", *run]
    going = polyak(tmp_path, *train, "--name", "stopped", wait=False)
    wait_for(lambda: len(lines_of(tmp_path)) > 1, 120)
    for _ in range(20):
        time.sleep(rng.uniform(0.0, 3.0))
        assert going.poll() is None, going.communicate()[1]
        going.kill()
        going.communicate()
        reached = len(lines_of(tmp_path))
        wait_for(lambda: rays() <= before, 90)
        going = polyak(tmp_path, "resume", "runs/stopped", wait=False)
        if rng.random() < 0.5:  # else it is killed while it begins
            wait_for(lambda reached=reached: len(lines_of(tmp_path)) > reached + 1, 120)
    _, err = going.communicate(timeout=600)
    assert going.returncode == 0, err
    wait_for(lambda: rays() <= before, 90)
    assert list(Path(place.path).glob("polyak-*")) == []
    _, err, code = polyak(tmp_path, *train, "--name", "whole")
    assert code == 0, err
    digests = [polyak(tmp_path, "digest", f"runs/{name}")[0].strip() for name in ("whole", "stopped")]
    assert digests[0] == digests[1]
    place.close()


@pytest.mark.long
def test_twenty_workers_killed_from_outside_change_no_bit(cluster, tmp_path):
    algorithm, cfg = find_algorithm("ppo"), config("ppo")
    world = counting()
    want = after(crew(algorithm, cfg, world), 60)
    driver = crew(algorithm, cfg, world)
    run, rng = driver.start(), np.random.default_rng(0)
    for _ in range(20):
        hand = driver.hands[rng.integers(2)]
        wait_for(lambda hand=hand: hand.pid > 0, 30)
        os.kill(hand.pid, [signal.SIGKILL, signal.SIGSTOP][int(rng.integers(10) == 0)])
        driver.deadline = 3.0
        run = driver.advance(run, 3)
    assert_same_bits(arrays_of(driver, run), want)
    assert driver.ledger.issued == driver.ledger.accepted + driver.ledger.void
    assert driver.ledger.accepted == 60 * 2
    driver.close()


@pytest.mark.long
def test_a_cluster_that_is_there_is_used_and_stays(tmp_path):
    place = TemporaryFolder()  # paths of Ray's sockets have a limit
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--port",
        "6399",
        "--num-cpus",
        "2",
    ]
    start += [
        "--include-dashboard",
        "false",
        "--node-ip-address",
        "127.0.0.1",
        "--temp-dir",
        str(Path(place.path) / "r"),
    ]
    ours = f"POLYAK_TEST_CLUSTER={tmp_path}"
    stop = lambda: [os.kill(pid, signal.SIGKILL) for pid in rays(ours)]  # noqa: E731
    env = {
        **os.environ,
        **dict([ours.split("=")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        subprocess.run(start, env=env, check=True, capture_output=True, timeout=120)
        there = rays(ours)
        assert there
        command = [sys.executable, "-m", "polyak", "train", "ppo", "CartPole-v1", *RUN]
        command += ["--address", "127.0.0.1:6399"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: len(rays(ours)) <= len(there) + 2, 30)
        assert there <= rays(ours)
        refused = subprocess.run(
            command,
            env={**env, "RAY_AUTH_TOKEN": "b" * 64},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert refused.returncode == 2, refused.stderr
    finally:
        stop()
        place.close()


def in_a_small_store():
    """Rollouts of 256 MB from a worker through a store of 80 MB, and without a worker; in a process of its own."""
    os.environ |= SILENT | LOCAL | {"RAY_AUTH_TOKEN": "a" * 64}
    import ray

    begin = ray.init
    ray.init = lambda **given: begin(**given, object_store_memory=80 << 20)
    cluster = Cluster(1)
    folder = Path(cluster.folder.path)
    assert ray.cluster_resources()["object_store_memory"] == 80 << 20
    cfg = CASE["ppo"].config({"steps": 16}, network="linear", minibatch=16)
    world = GymnasiumFactory("Large", {}, entry=LargeGym)
    driver = crew(find_algorithm("ppo"), cfg, world, workers=1)
    got = arrays_of(driver, driver.advance(driver.start(), 3))
    driver.close()
    assert driver.ledger == distributed.Ledger(issued=3, accepted=3, void=0)
    cluster.close()
    assert not folder.exists()
    assert_same_bits(got, after(drive(find_algorithm("ppo"), cfg, world, (0,), LANES), 3))


@pytest.mark.long
def test_rollouts_that_the_object_store_has_no_room_for_pass_by_the_disk():
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", "import test_distributed; test_distributed.in_a_small_store()"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


PORT = "6398"


def start_node(env, host, *words, inside=()):
    """A node of a cluster, which is more processes than the one that begins it."""
    command = [
        *inside,
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--node-ip-address",
        host,
        *words,
    ]
    subprocess.run([*command, "--num-cpus", "1"], env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)


class OneHost:
    """Both nodes are on this machine's loopback; the second is lost to a signal."""

    here = there = "127.0.0.1"
    inside = ()

    def __init__(self, how):
        self.how = how

    def lose(self, processes):
        for pid in processes:
            os.kill(pid, self.how)

    def close(self):
        pass


class TwoHosts:
    """The second node is in a network of its own, with a cable to this one; it is lost when that is cut."""

    here, there = "10.231.77.1", "10.231.77.2"

    def __init__(self):
        self.name = f"polyak-{os.getpid()}"
        near, far = f"pk{os.getpid()}n", f"pk{os.getpid()}f"
        self.inside, self.far = ["ip", "netns", "exec", self.name], far
        if shutil.which("ip") is None:
            pytest.skip("networks of one's own need iproute2")
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"networks of one's own are for root: {made.stderr.strip()}")
        for words in (
            ["link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name],
            ["address", "add", f"{self.here}/30", "dev", near],
            ["link", "set", near, "up"],
            ["-n", self.name, "address", "add", f"{self.there}/30", "dev", far],
            ["-n", self.name, "link", "set", far, "up"],
            ["-n", self.name, "link", "set", "lo", "up"],
        ):
            if subprocess.run(["ip", *words]).returncode:
                self.close()
                pytest.skip(f"no network of one's own: ip {' '.join(words)}")

    def lose(self, processes):
        subprocess.run(["ip", "-n", self.name, "link", "set", self.far, "down"], check=True)
        assert all(Path(f"/proc/{pid}").exists() for pid in processes)  # they live, and nobody hears them

    def close(self):
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


def named(place):
    """Numbers and words of Ray's processes that have something in this folder."""
    found = {}
    for pid in rays():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(place.encode() in word for word in words):
                found[pid] = words
    return found


def raylets(place):
    """Numbers of the processes that are the nodes of a cluster whose folder is this."""
    return [pid for pid, words in named(place).items() if words[0].endswith(b"/raylet")]


def family(pid):
    """A process and all that it began."""
    found, parents = [pid], {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, "cut off"])
def test_a_node_that_dies_or_falls_silent_changes_no_bit(tmp_path, how):
    """Its worker goes on in a node that comes later."""
    place, network = TemporaryFolder(), TwoHosts() if how == "cut off" else OneHost(how)
    address = f"{network.here}:{PORT}"
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "TMPDIR": place.path}  # with 0 it has one node
    train = ["train", "ppo", "CartPole-v1", *RUN, "--deadline", "5"]
    command = [sys.executable, "-m", "polyak", *train]
    quiet = {
        "env": env,
        "cwd": tmp_path,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    going = None
    try:
        done = subprocess.run([*command, "--name", "whole"], timeout=180, **quiet)
        assert done.returncode == 0, done.stderr
        head = ["--head", "--port", PORT, "--include-dashboard", "false"]
        start_node(env, network.here, *head, "--temp-dir", f"{place.path}/c")
        first = raylets(place.path)
        start_node(env, network.there, "--address", address, inside=network.inside)
        (second,) = set(raylets(place.path)) - set(first)
        going = subprocess.Popen([*command, "--name", "stopped", "--address", address], **quiet)
        wait_for(lambda: len(lines_of(tmp_path)) > 3, 120)
        lost = family(second)
        assert any(b"ray::Worker" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in lost)
        network.lose(lost)
        assert len(lines_of(tmp_path)) < 150, "it was through before the node was lost"
        start_node(env, network.here, "--address", address)
        _, err = going.communicate(timeout=240)
        assert going.returncode == 0, err
        assert "was lost, and another is in its place" in err
        digests = [polyak(tmp_path, "digest", f"runs/{name}")[0].strip() for name in ("whole", "stopped")]
        assert digests[0] == digests[1]
    finally:
        ours = [pid for one in raylets(place.path) for pid in family(one)]
        for pid in [*ours, *named(place.path)]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if going is not None:
            going.kill()
            going.communicate()
        network.close()
        place.close()
