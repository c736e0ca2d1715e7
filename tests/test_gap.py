"""The program that goes from a simulator to the real world and draws the picture of it."""

import os
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.worlds.classic_control import CartPole
from reproductions import gap
from reproductions.gap import REAL, Cart


def played(env, actions, seed=0):
    """States of the cart [T + 1, 4], and what is seen of them."""
    state, obs = env.reset(jax.random.key(seed))
    states, seen = [state[0]], [obs]
    for number, action in enumerate(actions):
        step = env.step(state, jnp.int32(action), jax.random.key(100 + number))
        state = step.state
        states.append(state[0])
        seen.append(step.obs)
    return np.array(states), np.array(seen)


def test_a_cart_whose_pushes_come_at_once_is_cart_pole():
    actions, plain = (1, 0, 0, 1, 1), CartPole()
    states, seen = played(Cart(), actions)
    np.testing.assert_array_equal(states, seen)
    for before, after, action in zip(states, states[1:], actions, strict=False):
        step = plain.step(jnp.asarray(before), jnp.int32(action), jax.random.key(0))
        np.testing.assert_array_equal(step.obs, after)


@pytest.mark.parametrize("delay", [0.0, 1.0, 1.9, 2.0])
def test_a_push_is_felt_so_many_whole_steps_later(delay):
    actions = (1, 0, 1, 1, 0)
    states, _ = played(Cart(delay=delay), actions)
    felt = np.sign(
        np.round(np.diff(states[:, 1]), 1)
    )  # of 10 N: 0.2 m/s in a step; of the pole less than 0.05
    came = [0] * int(delay) + [2 * action - 1 for action in actions]
    np.testing.assert_array_equal(felt, came[: len(actions)])


def test_noise_is_seen_and_not_felt():
    noisy = Cart(noise=0.02)
    states, seen = jax.vmap(lambda key: (lambda state, obs: (state[0], obs))(*noisy.reset(key)))(
        jax.random.split(jax.random.key(1), 2_000)
    )
    np.testing.assert_allclose(np.std(seen - states, axis=0), 0.02 * gap.UNITS, rtol=0.1)
    clear, other = (played(env, (1, 1, 0, 1, 1)) for env in (Cart(), noisy))
    np.testing.assert_array_equal(clear[0], other[0])
    assert (clear[1] != other[1]).all()


@pytest.mark.slow
def test_two_thousand_real_steps_tell_length_force_delay_and_noise(tmp_path):
    found = gap.identified("records", str(tmp_path), 2_000)
    assert found["delay"] == REAL["delay"]
    for name, allowed in (("length", 0.1), ("force", 0.1), ("noise", 0.15)):
        assert abs(found[name] / REAL[name] - 1) < allowed, (name, found)
    assert gap.identified("records", str(tmp_path), 2_000) == found


STAGES = ("simulator", "randomised", "identified-200", "identified-2000", "scratch", "tuned", "columns")
HALVED = ("scratch", "tuned", "columns")  # with a checkpoint half-way


@pytest.mark.long
def test_killed_in_each_stage_and_started_again_it_ends_in_the_same_digests(tmp_path):
    """While a stage compiles or runs, or at a checkpoint half-way; then one start comes through, and all is there."""
    draw = np.random.default_rng(0)

    def start(out):
        said = [sys.executable, "-m", "reproductions.gap", "--name", "gap", "--out", str(out), "--small"]
        return subprocess.Popen(
            said, stdout=subprocess.PIPE, text=True, env=os.environ, start_new_session=True
        )

    def digests(process):
        text = process.communicate(timeout=900)[0]
        assert process.returncode == 0
        return re.findall(r"^digest .*", text, re.MULTILINE)

    def there(process, pattern):
        while not any(out.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.01)

    whole = digests(start(tmp_path / "whole"))
    assert len(whole) == len(STAGES)
    out = tmp_path / "killed"
    for name in STAGES:
        with start(out) as process:
            there(process, f"gap-{name}/config.json")
            if name in HALVED:
                there(process, f"gap-{name}/checkpoints/*/COMPLETE")
            else:
                time.sleep(draw.uniform(0, 1))
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
    assert digests(start(out)) == whole
    began = time.monotonic()
    assert digests(start(out)) == whole
    assert time.monotonic() - began < 60
