"""MPC against a slow float64 loop: the fit of the ensemble, and plans compared one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from auditing import QUICK
from oracles import Adam, finite_differences, float64

from polyak.algorithms import mpc
from polyak.envs.environment import rules
from polyak.envs.worlds.classic_control import Pendulum
from polyak.interface import Box, Shown, Spec

B = 6
SPEC = Spec(obs=Box((2,)), action=Box((1,), -2.0, 2.0))
CFG = mpc.Config(hidden=(3,), members=2, lr=1e-2, lookahead=3, samples=12, elites=3, iterations=2, gamma=0.9)


def start():
    """A state whose scales are not those of no data."""
    state = mpc.init(CFG, SPEC, jax.random.key(0))
    rollout = oracles.rows(2, SPEC.action, (20, 2))
    return mpc.observe(CFG, SPEC, state, rollout), rollout


class Slow:
    """Equation 2 for every member, and Adam over all of them."""

    def __init__(self, state, rows):
        self.model, self.adam = float64(state.model), Adam(CFG.lr)
        inputs = np.concatenate([rows.obs, rows.action], axis=-1).reshape(-1, 3).astype(float)
        change = np.concatenate([rows.next_obs - rows.obs, rows.reward[..., None]], axis=-1).reshape(-1, 3)
        self.scales = [(x.mean(axis=0), x.std(axis=0)) for x in (inputs, change.astype(float))]
        self.moments = float64(state.moments)

    def update(self, batch, key):
        (mean, std), (mean_out, std_out) = self.scales
        x = (np.concatenate([batch.obs, batch.action], axis=-1) - mean) / std
        change = np.concatenate([batch.next_obs - batch.obs, batch.reward[:, None]], axis=-1)
        target = (change - mean_out) / std_out

        def loss(model):
            errors = [oracles.mlp(model.member, x, member=e) - target for e in range(CFG.members)]
            return sum((batch.weight[:, None] * error**2).mean() / 2 for error in errors)

        self.model = self.adam.step(self.model, finite_differences(loss, self.model))


def test_three_updates_are_those_of_equation_2():
    state, rows = start()
    update = jax.jit(lambda *args: mpc.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, CFG.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, state, Slow(state, rows), batches)


def returns(state, rows, obs, plans):
    """The mean over the members of the return of each plan [K, H], by loops."""
    slow = Slow(state, rows)
    (mean, std), (mean_out, std_out) = slow.scales
    found = []
    for plan in plans:
        totals = []
        for member in range(CFG.members):
            s, total = np.asarray(obs, float), 0.0
            for t, action in enumerate(plan):
                x = (np.append(s, action) - mean) / std
                out = oracles.mlp(slow.model.member, x, member=member) * std_out + mean_out
                s, total = s + out[:-1], total + CFG.gamma**t * out[-1]
            totals.append(total)
        found.append(np.mean(totals))
    return np.array(found)


def test_shooting_takes_the_best_of_its_plans_and_the_rest_of_it_is_remembered():
    state, rows = start()
    cfg = dataclasses.replace(CFG, planner="shooting", samples=40)
    obs = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    memory = mpc.memory(cfg, SPEC, jnp.arange(3), jnp.zeros(3, jnp.int32), jax.random.key(0))

    def go(actor, memory, obs, key):
        return mpc.act(cfg, SPEC, actor, memory, obs, key, False)[:2]

    act = jax.jit(go, compiler_options=QUICK)
    action, rest = act(mpc.actor(state), memory, obs, jax.random.key(1))
    plans = jax.random.uniform(jax.random.key(0), (40, 3, 3), minval=-1.0)  # without exploring, always these
    for n in range(3):
        best = plans[returns(state, rows, obs[n], plans[:, n]).argmax(), n]
        np.testing.assert_allclose(action[n], best[:1])
        np.testing.assert_allclose(rest[n], [best[1], best[2], 0.0])


def test_the_cross_entropy_method_finds_a_better_plan_than_as_many_uniform_ones():
    state, rows = start()
    obs = np.random.default_rng(1).normal(size=(1, 2)).astype(np.float32)
    cfg = dataclasses.replace(CFG, samples=50, elites=5, iterations=4)
    memory = jnp.zeros((1, 3))
    found = {}
    for planner in ("cross_entropy", "shooting"):
        each = dataclasses.replace(cfg, planner=planner)
        action, rest, _ = mpc.act(each, SPEC, mpc.actor(state), memory, obs, jax.random.key(0), False)
        plan = np.concatenate([action[0], rest[0, :2]])
        found[planner] = returns(state, rows, obs[0], [plan])[0]
    assert found["cross_entropy"] >= found["shooting"] - 1e-6


def test_with_the_simulator_plans_are_compared_in_the_true_world():
    """In shooting's first plans the best is that of the environment itself, stepped one by one."""
    env = Pendulum()
    spec = dataclasses.replace(env.spec, model=rules(env))
    cfg = dataclasses.replace(CFG, planner="shooting", samples=20, gamma=1.0)
    state = mpc.init(cfg, spec, jax.random.key(0))
    world, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 2))
    act = jax.jit(
        lambda seen: mpc.act(cfg, spec, mpc.actor(state), jnp.zeros((2, 3)), seen, jax.random.key(0), False)
    )
    action = act(Shown(obs, world))[0]
    plans = jax.random.uniform(jax.random.key(0), (20, 2, 3), minval=-1.0)
    step = jax.jit(env.step)
    for n in range(2):
        totals = []
        for plan in plans[:, n]:
            s, total = world[n], 0.0
            for move in plan:
                stepped = step(s, 2 * move[None], jax.random.key(0))
                s, total = stepped.state, total + float(stepped.reward)
            totals.append(total)
        np.testing.assert_allclose(action[n, 0], plans[int(np.argmax(totals)), n, 0])
