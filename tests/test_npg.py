"""NPG against dense Fisher matrices in float64, made from the scores of single rows."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, flat, float64, mlp, unflat

from polyak.algorithms import npg
from polyak.interface import Array, Box, Discrete, Spec
from polyak.parts.policies import Softmax
from polyak.pytree import Record, pytree, static

T, N = 6, 2
CFG = npg.Config(
    hidden=(3,), gamma=0.9, lam=0.8, delta=0.05, iterations=40, value_epochs=2, value_parts=3, value_lr=1e-2
)
SPEC = {kind: Spec(Box((2,)), action, num_envs=N) for kind, action in
        {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}.items()}  # fmt: skip


def start(spec):
    """Networks whose last layers are not small."""
    state = jax.jit(lambda key: npg.init(CFG, spec, key), compiler_options=QUICK)(jax.random.key(0))
    rng = np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(spec, seed):
    return oracles.as_batch(oracles.rows(2, spec.action, (T, N), seed), CFG.gamma)


def advantages(cfg, critic, batch):
    """Generalised estimates, and the values that they are measured from; [T, N]."""
    value, after = (mlp(critic, obs, "tanh")[..., 0] for obs in (batch.obs, batch.next_obs))
    ends = batch.terminated, batch.truncated
    return oracles.gae(batch.reward, *ends, value, after, cfg.gamma, cfg.lam), value


class Slow:
    """Algorithm 1 of Rajeswaran et al., with the Fisher matrix itself."""

    def __init__(self, cfg, state):
        self.cfg = cfg
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.adam = Adam(cfg.value_lr)

    def update(self, batch, key):
        cfg = self.cfg
        advantage, value = advantages(cfg, self.critic, batch)
        scaled = (advantage - advantage.mean()) / advantage.std()
        direction, g = oracles.natural_gradient(self.policy, batch, scaled, cfg.damping)
        length = math.sqrt(2 * cfg.delta / (g @ direction))
        self.policy = unflat(self.policy, flat(self.policy) + length * direction)
        target = advantage + value
        fit = batch.obs, target, key, cfg.value_epochs, cfg.value_parts
        self.critic = oracles.fitted_value(self.critic, self.adam, *fit)


@pytest.mark.parametrize("kind", SPEC)
def test_three_updates_are_natural_steps_by_a_dense_solve(kind):
    spec = SPEC[kind]
    update = jax.jit(lambda *args: npg.update(CFG, spec, *args), compiler_options=QUICK)
    batches = [make_batch(spec, seed) for seed in range(3)]
    oracles.assert_follows(update, start(spec), Slow(CFG, start(spec)), batches)


@pytest.mark.parametrize("kind", SPEC)
def test_a_short_step_has_the_divergence_that_it_is_meant_to_have(kind):
    """In the damped metric a step's length is delta, and KL is its undamped share, to second order."""
    spec, cfg = SPEC[kind], dataclasses.replace(CFG, delta=1e-4)
    batch, state = make_batch(spec, 0), start(spec)
    update = jax.jit(lambda *args: npg.update(cfg, spec, *args), compiler_options=QUICK)
    done = update(state, batch, jax.random.key(0))
    step = flat(done.state.policy) - flat(state.policy)
    damped = cfg.damping / 2 * step @ step
    kl = oracles.kl(state.policy, done.state.policy, batch.obs.reshape(-1, 2))
    assert damped > 0.05 * cfg.delta
    np.testing.assert_allclose(kl + damped, cfg.delta, rtol=0.05)
    np.testing.assert_allclose(done.metrics["kl"], kl, rtol=1e-2)


# ---- the same policy, parameterised in other ways

MIX = ((1.5, 0.4), (-0.3, 0.5))


@pytree
class Logits(Record):
    """Two actions with logits 0 and w s; w is the parameter itself, or sinh of a mixture of the parameters."""

    phi: Array
    bent: bool = static(default=False)

    def weight(self):
        return jnp.sinh(jnp.asarray(MIX) @ self.phi) if self.bent else self.phi

    def __call__(self, obs):
        logit = obs @ self.weight()
        return jnp.stack([jnp.zeros_like(logit), logit], axis=-1)


@pytest.fixture
def two():
    """States of the same policy in both parameterisations, in float64; a batch; and w."""
    w = np.array([0.7, -0.4])
    spec = SPEC["discrete"]
    with jax.enable_x64(True):
        state = npg.init(CFG, spec, jax.random.key(0))
        state = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, state)
        bent = Logits(jnp.asarray(np.linalg.solve(MIX, np.arcsinh(w))), True)
        states = [state.replace(policy=Softmax(net)) for net in (Logits(jnp.asarray(w)), bent)]
        batch = oracles.as_batch(oracles.rows(2, Discrete(2), (T, N), 0), CFG.gamma)
        yield states, batch, w


@functools.cache
def stepped(cfg):
    return jax.jit(lambda *args: npg.update(cfg, SPEC["discrete"], *args), compiler_options=QUICK)


def moved(state, batch, w, delta):
    """How far w goes in one update."""
    cfg = dataclasses.replace(CFG, delta=delta, damping=0.0, iterations=6)
    after = stepped(cfg)(state, batch, jax.random.key(0)).state
    return np.asarray(after.policy.net.weight()) - w


def test_a_small_natural_step_is_the_same_policy_under_another_parameterisation(two):
    states, batch, w = two
    apart = []
    for delta in (1e-4, 1e-6, 1e-8):
        plain, bent = (moved(state, batch, w, delta) for state in states)
        apart.append(np.linalg.norm(plain - bent) / np.linalg.norm(plain))
    # equal to first order: what is left shrinks with the length of the step, by sqrt(100)
    assert apart[0] < 0.05
    np.testing.assert_allclose(np.divide(apart[:-1], apart[1:]), 10, rtol=0.1)


def test_a_plain_gradient_step_is_another_policy_under_another_parameterisation(two):
    """What would be left of the test above without the Fisher matrix."""
    states, batch, w = two
    steps = []
    for state in states:
        advantage = np.random.default_rng(0).normal(size=(T, N))
        loss = lambda net, a=advantage: (Softmax(net)(batch.obs).log_prob(batch.action) * a).mean()  # noqa: E731
        net = state.policy.net
        after = net.replace(phi=net.phi + 1e-6 * jax.grad(loss)(net).phi)
        steps.append(np.asarray(after.weight()) - w)
    cosine = steps[0] @ steps[1] / np.prod([np.linalg.norm(step) for step in steps])
    assert cosine < 0.9
