"""A run on two devices, beside the same run on one: equal to rounding, exactly resumed, and really shared out."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from auditing import arrays_of, assert_same_bits, saved_and_loaded

from polyak.drivers.in_graph import InGraph
from polyak.errors import UserError
from polyak.runs.decide import make_plan
from polyak.runs.plan import Plan, Settings, check_devices
from polyak.runs.session import Session

ENVS = 4
PPO = {"data.steps": 8, "minibatch": 16, "epochs": 2, "hidden": (16,)}
TD3 = {"data.warmup": 16, "data.capacity": 256, "data.batch_size": 16, "hidden": (16,)}
PRIORITY = {
    "data.warmup": 16,
    "data.capacity": 256,
    "data.batch_size": 16,
    "data.steps": 4,
    "data.priority": 0.5,
}
RUNS = [
    ("ppo", "jax:CartPole-v1", PPO, 1),
    ("td3", "Pendulum-v1", TD3, 1),
    ("ppo", "CartPole-v1", PPO, 2),
    ("ppo", "jax:CartPole-v1", PPO, 2),
    ("td3", "jax:Pendulum-v1", TD3, 1),
    ("dqn", "jax:CartPole-v1", PRIORITY, 1),
]


@pytest.fixture(autouse=True)
def two():
    if len(jax.devices()) < 2:
        pytest.skip("needs XLA_FLAGS of conftest.py")


def session(algorithm, env, config, seeds, devices):
    settings = Settings(steps=4_096, num_envs=ENVS, seeds=seeds, devices=devices, preset=False)
    return Session(make_plan(algorithm, env, settings, config, in_graph=env.startswith("jax:")))


def on_one(session):
    """The driver of one device; for several seeds in JAX not the one that a CPU has, where each is on its own."""
    if not session.in_graph:
        return session.driver
    return InGraph(session.algorithm, session.cfg, session.world, session.spec, session.plan.all_seeds)


def test_two_devices_in_a_process_of_their_own():
    """Two of the long tests. XLA ends a process whose devices wait too long for each other: no other test is in it."""
    in_graph = (
        "test_two_devices_learn_what_one_does_and_go_on_from_their_checkpoint[ppo-jax:CartPole-v1-config0-1]"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-m", "long", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [
        f"{__file__}::{name}" for name in (in_graph, "test_environments_rows_and_batches_are_shared_out")
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(("algorithm", "env", "config", "seeds"), RUNS)
def test_two_devices_learn_what_one_does_and_go_on_from_their_checkpoint(
    algorithm, env, config, seeds, tmp_path
):
    one, several = (session(algorithm, env, config, seeds, devices) for devices in (1, 2))
    driver, alone = several.driver, on_one(one)
    got, want = driver.advance(driver.start(), 8), alone.advance(alone.start(), 8)
    states = driver.learned(got), alone.learned(want)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for mine, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        assert len(mine.devices()) == 1  # where evaluation, which has one, finds it
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    back = arrays_of(driver, driver.advance(saved_and_loaded(driver, got, tmp_path), 3))
    assert_same_bits(back, arrays_of(driver, driver.advance(driver.start(), 8 + 3)))
    for each in (one, several):
        each.close()


@pytest.mark.long
def test_environments_rows_and_batches_are_shared_out():
    made = session("td3", "jax:Pendulum-v1", TD3, 1, 2)
    run = made.driver.advance(made.driver.start(), 6)
    for name, tree, axis in (
        ("episodes", run.episodes, 1),
        ("ring", run.buffer.rows, 2),
        ("state", run.state, None),
    ):
        for x in jax.tree.leaves(tree):
            parts = {shard.data.shape for shard in x.addressable_shards}
            whole = tuple(n // 2 if at == axis else n for at, n in enumerate(x.shape))
            assert parts == {whole}, name
            assert len(x.addressable_shards) == 2, name
    text = made.driver.program[False].text()
    assert "all-reduce" in text  # of gradients
    assert f"f32[{TD3['data.batch_size'] // 2},16]" in text  # half of a batch in a layer
    made.close()


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            {"devices": 3, "num_envs": 6},
            "--devices is 3, but JAX has 2 (cpu); a CPU is as many as XLA_FLAGS=",
        ),
        (
            {"devices": 2, "num_envs": 3},
            "cannot share out 3 environments equally: give a multiple by --num-envs",
        ),
        (
            {
                "devices": 2,
                "num_envs": 4,
                "algorithm": "dqn",
                "config": {"data": {"batch_size": 7, "warmup": 8}},
            },
            "cannot share out batches of 7 equally: give a multiple by --config.data.batch_size",
        ),
    ],
)
def test_devices_that_are_not_there_or_do_not_divide_are_one_line(plan, expected):
    with pytest.raises(UserError) as error:
        Session(Plan(**{"algorithm": "ppo", "env": "jax:CartPole-v1", **plan})).check()
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sync": "hogwild", "workers": 2}, "--sync hogwild"),
        ({"lockstep": False, "driver": "ray"}, "--no-lockstep"),
        ({"updates": 10, "steps": 0}, "--updates"),
    ],
)
def test_what_learns_on_one_device_is_refused(more, said):
    with pytest.raises(UserError, match=f"--devices 2 is not for {said}, which learns on one"):
        check_devices(Plan("ppo", "CartPole-v1", devices=2, num_envs=2, **more))


@pytest.mark.long
def test_a_cpu_becomes_as_many_devices_as_a_command_asks_for(tmp_path):
    command = [sys.executable, "-m", "polyak", "train", "ppo", "jax:CartPole-v1", "--devices", "4"]
    command += ["--num-envs", "4", "--steps", "64", "--eval-every", "32", "--no-preset", "--name", "four"]
    command += ["--config.data.steps", "8", "--config.minibatch", "16"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    command[3:] = ["resume", "runs/four", "--steps", "128"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
