"""PPO against slow float64 loops written from Schulman et al. 2017: eq. 7, 9, 11 and 12."""

import dataclasses
import math

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam
from scipy import stats

from polyak.algorithms import ppo
from polyak.algorithms.ppo import Minibatch
from polyak.drivers.check import check_data
from polyak.drivers.learn import on_policy_batch
from polyak.interface import Box, Discrete, OnPolicy, Spec, Transition

DISCRETE = Spec(obs=Box((3,)), action=Discrete(4), num_envs=2)
REAL = Spec(obs=Box((3,)), action=Box((2,), -1.0, 1.0), num_envs=2)
T, N = 6, 2
CFG = ppo.Config(hidden=(8,), gamma=0.9, lam=0.8, minibatch=4, epochs=2, lr=1e-2, data=OnPolicy(steps=T))


def cached(function):
    """Remembers what it made for (cfg, spec); a Spec has no hash."""
    made = {}

    def find(cfg, spec):
        key = cfg, id(spec)
        if key not in made:
            made[key] = function(cfg, spec)
        return made[key]

    return find


@cached
def start(cfg, spec):
    """Networks whose last layers are not small, so that nothing is nearly uniform by accident."""
    state = jax.jit(lambda key: ppo.init(cfg, spec, key), compiler_options=QUICK)(jax.random.key(0))
    rng = np.random.default_rng(0)
    policy, value = jax.tree.map(
        lambda x: x + rng.normal(scale=0.3, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=value)


@cached
def evaluate(cfg, spec):
    """The loss, its metrics and its gradient."""
    return jax.jit(
        lambda params, rows: jax.value_and_grad(lambda params: ppo.loss(cfg, params, rows), has_aux=True)(
            params
        ),
        compiler_options=QUICK,
    )


@cached
def updater(cfg, spec):
    return jax.jit(lambda *args: ppo.update(cfg, spec, *args), compiler_options=QUICK)


def mlp(net, x):
    return oracles.mlp(net, x, "tanh")


def log_pi_and_entropy(cfg, spec, policy, obs, action):
    """log pi(a|s) and H(pi(.|s)) of one row in float64."""
    out = mlp(policy.net, obs)
    if isinstance(spec.action, Discrete):
        log_p = out - np.log(np.exp(out).sum())
        return log_p[action], -(np.exp(log_p) * log_p).sum()
    if cfg.policy == "beta":
        alpha, beta = 1 + np.log1p(np.exp(out.reshape(2, -1)))
        pi = stats.beta(alpha, beta, loc=-1, scale=2)
        return pi.logpdf(np.asarray(action, float)).sum(), pi.entropy().sum()
    if cfg.sigma == "full":
        size = spec.action.size
        factor = np.eye(size)
        factor[np.tril_indices(size, -1)] = out[2 * size :]
        factor *= np.exp(np.asarray(policy.log_sigma, float) + out[size : 2 * size])[:, None]
        pi = stats.multivariate_normal(out[:size], factor @ factor.T)
        return pi.logpdf(np.asarray(action, float)), pi.entropy()
    if cfg.sigma == "parameter":
        mean, log_sigma = out, np.asarray(policy.log_sigma, float)
    else:
        mean, log_sigma = out[:2], np.clip(np.asarray(policy.log_sigma, float) + out[2:], -5, 2)
    log_p = entropy = 0.0
    for m, s, a in zip(mean, log_sigma, np.asarray(action, float), strict=True):
        log_p += -((a - m) ** 2) / (2 * math.exp(2 * s)) - s - math.log(2 * math.pi) / 2
        entropy += s + math.log(2 * math.pi * math.e) / 2
    return log_p, entropy


def make_rows(spec, seed=0, size=(T, N)):
    rng = np.random.default_rng(seed)
    if isinstance(spec.action, Discrete):
        action = rng.integers(4, size=size, dtype=np.int32)
    else:
        action = np.tanh(rng.normal(size=(*size, 2))).astype(np.float32)
    normal = [rng.normal(size=size).astype(np.float32) for _ in range(3)]
    obs = rng.normal(size=(*size, 3)).astype(np.float32)
    return Minibatch(obs, action, 0.5 * normal[0] - 2, normal[1], normal[2])


def slow_loss(cfg, spec, policy, value, rows):
    """Minus eq. 9: L^CLIP - c1 L^VF + c2 S, averaged over the rows one by one."""
    advantage = rows.advantage.astype(float)
    if cfg.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    surrogate, squares, entropies, clipped, kl = [], [], [], [], []
    for index in np.ndindex(advantage.shape):
        log_p, entropy = log_pi_and_entropy(cfg, spec, policy, rows.obs[index], rows.action[index])
        ratio, a = math.exp(log_p - float(rows.log_prob[index])), advantage[index]
        # the cases of the paper's Figure 1: a gain from leaving the interval does not count, a loss does
        if a > 0:
            surrogate.append(min(ratio, 1 + cfg.clip) * a)
        else:
            surrogate.append(max(ratio, 1 - cfg.clip) * a)
        squares.append((mlp(value, rows.obs[index])[0] - rows.value_target[index]) ** 2)
        entropies.append(entropy)
        clipped.append(abs(ratio - 1) > cfg.clip)
        kl.append(ratio - 1 - math.log(ratio))
    total = -(np.mean(surrogate) - cfg.value_loss * np.mean(squares) + cfg.entropy * np.mean(entropies))
    return total, {
        "policy_loss": -np.mean(surrogate),
        "value_loss": np.mean(squares),
        "entropy": np.mean(entropies),
        "clip_fraction": np.mean(clipped),
        "kl": np.mean(kl),
    }


CASES = [
    (DISCRETE, {}),
    (DISCRETE, {"entropy": 0.3, "normalize_advantage": False, "value_loss": 0.7}),
    (REAL, {"entropy": 0.1, "clip": 0.5}),
    (REAL, {"sigma": "state", "log_sigma": -0.5, "normalize_advantage": False}),
    (REAL, {"sigma": "full", "log_sigma": -0.5, "entropy": 0.01}),
    (REAL, {"policy": "beta", "entropy": 0.1}),
]


@pytest.mark.parametrize(("spec", "options"), CASES)
def test_loss_and_metrics_are_those_of_equation_9(spec, options):
    cfg = dataclasses.replace(CFG, **options)
    state, rows = start(cfg, spec), make_rows(spec)
    (total, metrics), _ = evaluate(cfg, spec)((state.policy, state.critic), rows)
    want, want_metrics = slow_loss(cfg, spec, state.policy, state.critic, rows)
    assert 0 < want_metrics["clip_fraction"] < 1
    np.testing.assert_allclose(total, want, rtol=1e-4, atol=1e-5)
    assert set(metrics) == set(want_metrics)
    for name, value in want_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("advantage", "ratio", "flat"),
    [
        (1.0, 1.5, True),
        (1.0, 0.5, False),
        (1.0, 1.1, False),
        (-1.0, 0.5, True),
        (-1.0, 1.5, False),
        (-1.0, 0.9, False),
    ],
)
def test_the_policy_gradient_vanishes_only_where_leaving_would_gain(advantage, ratio, flat):
    cfg = dataclasses.replace(CFG, normalize_advantage=False, value_loss=0.0)
    state = start(cfg, DISCRETE)
    rows = make_rows(DISCRETE, size=(1, 1))
    log_p, _ = log_pi_and_entropy(cfg, DISCRETE, state.policy, rows.obs[0, 0], rows.action[0, 0])
    old = np.full((1, 1), log_p - math.log(ratio), np.float32)
    rows = rows._replace(log_prob=old, advantage=np.full((1, 1), advantage, np.float32))
    (total, _), grads = evaluate(cfg, DISCRETE)((state.policy, state.critic), rows)
    slope = np.asarray(grads[0].net.layers[-1].bias)
    bound = np.clip(ratio, 0.8, 1.2) if flat else ratio
    np.testing.assert_allclose(total, -bound * advantage, rtol=1e-4)
    if flat:
        np.testing.assert_array_equal(slope, 0)
    else:  # descent raises the action's probability where the advantage is positive
        chosen = slope[rows.action[0, 0]]
        assert np.sign(chosen) == -np.sign(advantage)


@pytest.mark.parametrize("spec", [DISCRETE, REAL])
def test_the_entropy_bonus_makes_the_policy_more_random(spec):
    cfg = dataclasses.replace(CFG, entropy=1.0, value_loss=0.0, normalize_advantage=False)
    state, rows = start(cfg, spec), make_rows(spec)
    rows = rows._replace(advantage=np.zeros_like(rows.advantage))
    params = state.policy, state.critic
    (before, metrics), grads = evaluate(cfg, spec)(params, rows)
    np.testing.assert_allclose(before, -metrics["entropy"], rtol=1e-5)
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
    assert evaluate(cfg, spec)(moved, rows)[0][1]["entropy"] > metrics["entropy"]


def make_rollout(spec, seed=0):
    rng = np.random.default_rng(seed)
    obs, next_obs = (rng.normal(size=(T, N, 3)).astype(np.float32) for _ in range(2))
    terminated, truncated = np.zeros((2, T, N), bool)
    terminated[1, 0] = terminated[4, 1] = True
    truncated[3, 0] = truncated[2, 1] = True
    rows = make_rows(spec, seed)
    reward = rng.normal(size=(T, N)).astype(np.float32)
    return Transition(obs, rows.action, reward, next_obs, terminated, truncated, {"log_prob": rows.log_prob})


def slow_advantages(cfg, value_net, rollout):
    """Eq. 11 and 12, and the values that they are measured from."""
    values, after = (mlp(value_net, obs)[..., 0] for obs in (rollout.obs, rollout.next_obs))
    ends = rollout.terminated, rollout.truncated
    return oracles.gae(rollout.reward, *ends, values, after, cfg.gamma, cfg.lam), values


@pytest.mark.parametrize("spec", [DISCRETE, REAL])
def test_one_full_batch_step_is_the_loss_at_the_gae_targets(spec):
    """With one epoch of one mini-batch the metrics are those of the starting parameters."""
    cfg = dataclasses.replace(CFG, epochs=1, minibatch=T * N)
    state, rollout = start(cfg, spec), make_rollout(spec)
    done = updater(cfg, spec)(state, on_policy_batch(rollout, cfg.gamma, None), jax.random.key(0))
    advantage, values = slow_advantages(cfg, state.critic, rollout)
    rows = Minibatch(rollout.obs, rollout.action, rollout.extras["log_prob"], advantage, advantage + values)
    _, want = slow_loss(cfg, spec, state.policy, state.critic, rows)
    for name, value in want.items():
        np.testing.assert_allclose(done.metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    explained = 1 - advantage.var() / (advantage + values).var()
    np.testing.assert_allclose(done.metrics["explained_variance"], explained, rtol=1e-4, atol=1e-5)


def test_the_step_is_one_adam_step_on_the_clipped_gradient():
    cfg = dataclasses.replace(CFG, epochs=1, minibatch=T * N)
    state, rollout = start(cfg, REAL), make_rollout(REAL)
    done = updater(cfg, REAL)(state, on_policy_batch(rollout, cfg.gamma, None), jax.random.key(0))
    advantage, values = (x.astype(np.float32) for x in slow_advantages(cfg, state.critic, rollout))
    rows = Minibatch(rollout.obs, rollout.action, rollout.extras["log_prob"], advantage, advantage + values)
    _, grads = evaluate(cfg, REAL)((state.policy, state.critic), rows)
    assert oracles.global_norm(grads) > cfg.max_norm
    old, new = (jax.tree.leaves((each.policy, each.critic)) for each in (state, done.state))
    want = Adam(cfg.lr, eps=1e-5, max_norm=cfg.max_norm).step(old, jax.tree.leaves(grads))
    for before, after, moved in zip(old, new, want, strict=True):
        np.testing.assert_allclose(before - after, before - moved, rtol=1e-2, atol=1e-5)


# ---- mini-batches


def numbered(times, num_envs):
    """Rows whose every field says (time, environment)."""
    t, n = np.mgrid[:times, :num_envs]
    number = (100 * t + n).astype(np.float32)
    return Minibatch(np.stack([number, -number], -1), number[..., None], number, number, number)


def dealt(cfg, rows, key):
    """The mini-batches of one epoch, one by one."""
    whole, rest = ppo.shuffled(cfg, rows, key)
    parts = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), whole) for i in range(len(whole.advantage))]
    return parts + ([jax.tree.map(np.asarray, rest)] if rest is not None else [])


@pytest.mark.parametrize(
    ("times", "num_envs", "minibatch", "sizes"),
    [
        (8, 1, 2, [2, 2, 2, 2]),
        (8, 3, 6, [6, 6, 6, 6]),
        (8, 2, 16, [16]),
        (8, 2, 100, [16]),
        (8, 4, 4, [4] * 8),
        (12, 5, 20, [20, 20, 20]),
        (8, 1, 3, [3, 3, 2]),
        (2048, 1, 1100, [1100, 948]),
        (8, 3, 7, [6, 6, 6, 6]),
        (7, 3, 8, [9, 9, 3]),
        (4, 100, 64, [100] * 4),
        (1, 1, 64, [1]),
    ],
)
def test_an_epoch_visits_every_row_once_in_mini_batches_of_the_size_that_is_said(
    times, num_envs, minibatch, sizes
):
    rows = numbered(times, num_envs)
    cfg = dataclasses.replace(CFG, minibatch=minibatch, data=OnPolicy(steps=times))
    parts, again = (dealt(cfg, rows, jax.random.key(seed)) for seed in (0, 1))
    assert [part.advantage.size for part in parts] == sizes
    for part in parts:
        number = part.advantage
        assert number.shape == (number.size // num_envs, num_envs)
        np.testing.assert_array_equal(number % 100, np.broadcast_to(np.arange(num_envs), number.shape))
        assert (number // 100 == number[:, :1] // 100).all()  # of every environment the same times
        for field in (
            part.obs[..., 0],
            -part.obs[..., 1],
            part.action[..., 0],
            part.log_prob,
            part.value_target,
        ):
            np.testing.assert_array_equal(field, number)
    order, other = (np.concatenate([part.advantage for part in deal]) for deal in (parts, again))
    np.testing.assert_array_equal(order[np.argsort(order[:, 0])], rows.advantage)
    if times > 1:
        assert (order != other).any()
        assert (order != rows.advantage).any()


@pytest.mark.parametrize("num_envs", [1, 3, 5, 6, 10, 12, 24, 100])
@pytest.mark.parametrize("config", [ppo.Config(), dataclasses.replace(CFG, minibatch=3)])
def test_any_number_of_environments_is_dealt_and_a_size_that_is_far_off_is_said(num_envs, config):
    spec = dataclasses.replace(DISCRETE, num_envs=num_envs)
    check_data("ppo", ppo.algorithm, config, spec)
    rows = numbered(config.data.steps, num_envs)
    whole, rest = jax.eval_shape(lambda rows, key: ppo.shuffled(config, rows, key), rows, jax.random.key(0))
    parts, each = whole.advantage.shape[:2]
    left = 0 if rest is None else len(rest.advantage)
    assert parts * each + left == config.data.steps
    assert left < each
    assert each == 1 or abs(each * num_envs - config.minibatch) <= num_envs / 2
    said = ppo.notes(config, spec)
    assert bool(said) == (abs(each * num_envs - config.minibatch) > 0.1 * config.minibatch)
    assert all(f"takes {each * num_envs:,} rows" in line and "--config.minibatch" in line for line in said)


def test_a_mini_batch_of_one_row_learns_what_the_row_says():
    """A row minus its own mean is 0, which would teach the policy nothing."""
    cfg = dataclasses.replace(CFG, value_loss=0.0)
    state, rows = start(cfg, DISCRETE), make_rows(DISCRETE, size=(1, 1))
    plain = dataclasses.replace(cfg, normalize_advantage=False)
    params = state.policy, state.critic
    (_, metrics), grads = evaluate(cfg, DISCRETE)(params, rows)
    (_, want), same = evaluate(plain, DISCRETE)(params, rows)
    assert abs(metrics["policy_loss"]) > 1e-3
    np.testing.assert_array_equal(metrics["policy_loss"], want["policy_loss"])
    jax.tree.map(np.testing.assert_array_equal, grads, same)


# ---- the policy and the schedule


@pytest.mark.parametrize(
    ("spec", "sigma", "outputs", "size"),
    [
        (DISCRETE, "parameter", 4, None),
        (REAL, "parameter", 2, 2),
        (REAL, "fixed", 2, 2),
        (REAL, "isotropic", 2, 1),
        (REAL, "state", 4, 2),
        (REAL, "full", 5, 2),
        (DISCRETE, "state", 4, None),
    ],
)
def test_sigma_is_a_parameter_or_an_output(spec, sigma, outputs, size):
    cfg = dataclasses.replace(CFG, sigma=sigma, log_sigma=-0.7)
    policy = jax.eval_shape(lambda key: ppo.init(cfg, spec, key), jax.random.key(0)).policy
    assert policy.net.layers[-1].bias.shape == (outputs,)
    assert size is None or policy.log_sigma.shape == (size,)


@pytest.mark.parametrize(
    ("sigma", "learned"),
    [("parameter", True), ("isotropic", True), ("fixed", False), ("state", False), ("full", False)],
)
def test_a_sigma_that_is_no_parameter_is_not_moved(sigma, learned):
    cfg = dataclasses.replace(CFG, sigma=sigma, log_sigma=-0.7)
    batch = on_policy_batch(make_rollout(REAL), cfg.gamma, None)
    done = updater(cfg, REAL)(start(cfg, REAL), batch, jax.random.key(0))
    before, after = (np.asarray(s.policy.log_sigma) for s in (start(cfg, REAL), done.state))
    assert (before != after).all() == learned
    assert (before == after).all() != learned


@pytest.mark.parametrize("sigma", ["parameter", "state", "full"])
def test_log_prob_that_act_remembers_is_that_of_its_action(sigma):
    cfg = dataclasses.replace(CFG, sigma=sigma, log_sigma=-0.7)
    state = start(cfg, REAL)
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    action, _, extras = ppo.act(cfg, REAL, state.policy, (), obs, jax.random.key(0), True)
    assert action.shape == (5, 2)
    want = [log_pi_and_entropy(cfg, REAL, state.policy, o, a)[0] for o, a in zip(obs, action, strict=True)]
    np.testing.assert_allclose(extras["log_prob"], want, rtol=1e-4, atol=1e-4)


def test_sigma_of_the_state_starts_at_log_sigma_and_differs_between_states():
    cfg = dataclasses.replace(CFG, sigma="state", log_sigma=-0.7)
    policy = jax.jit(lambda key: ppo.init(cfg, REAL, key).policy)(jax.random.key(0))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    pi = policy(obs)
    np.testing.assert_allclose(np.log(pi.std), -0.7, atol=0.05)
    pi = start(cfg, REAL).policy(obs)
    assert np.ptp(np.asarray(pi.std), axis=0).min() > 1e-3
    fixed = start(CFG, REAL).policy(obs)
    assert np.ptp(np.asarray(fixed.std), axis=0).max() == 0


@pytest.mark.parametrize(
    ("lr_end", "env_steps", "share"),
    [(1.0, 500, 1.0), (0.0, 0, 1.0), (0.0, 500, 0.5), (0.0, 1000, 0.0), (0.5, 500, 0.75)],
)
def test_the_learning_rate_falls_linearly_over_the_horizon(lr_end, env_steps, share):
    cfg = dataclasses.replace(CFG, lr_end=lr_end, horizon=1000, epochs=1, minibatch=T * N)
    state = start(cfg, REAL)
    state = state.replace(clock=state.clock.at(env_steps))
    batch = on_policy_batch(make_rollout(REAL), cfg.gamma, None)
    done = updater(cfg, REAL)(state, batch, jax.random.key(0))
    np.testing.assert_allclose(done.metrics["lr"], share * cfg.lr, rtol=1e-5)
    if share == 0:
        jax.tree.map(np.testing.assert_array_equal, done.state.policy, state.policy)
    assert int(done.state.clock.env_steps) == env_steps
    assert (
        int(ppo.algorithm.observe(cfg, REAL, done.state, make_rollout(REAL)).clock.env_steps)
        == env_steps + T * N
    )


# ---- the whole update, which test_updates.py runs


class Whole(oracles.Whole):
    """Algorithm 1 of Schulman et al. 2017, with the settings that `ppo.py` states: K epochs, each in its own order."""

    def __init__(self, cfg, spec, state):
        super().__init__(cfg, spec, state)
        self.adam = oracles.Adam(cfg.lr, eps=1e-5, max_norm=cfg.max_norm)

    @staticmethod
    def read(state):
        log_sigma = np.asarray(getattr(state.policy, "log_sigma", np.zeros(0)), float)
        return {
            "policy": oracles.layers_of(state.policy.net),
            "log_sigma": log_sigma,
            "critic": oracles.layers_of(state.critic),
        }

    def policy(self, obs, action):
        """For rows [M]: log pi(a|s), its slope in the network's output and in log sigma, likewise of the entropy."""
        out = oracles.mlp(self.networks["policy"], obs, "tanh")
        if isinstance(self.spec.action, Discrete):
            log_p = out - np.log(np.exp(out).sum(axis=1, keepdims=True))
            p, rows = np.exp(log_p), np.arange(len(out))
            entropy = -(p * log_p).sum(axis=1, keepdims=True)
            none = np.zeros((len(out), 0))
            return log_p[rows, action], np.eye(out.shape[1])[action] - p, none, -p * (log_p + entropy), none
        log_sigma = self.networks["log_sigma"]
        z = (action - out) / np.exp(log_sigma)
        log_prob = (-(z**2) / 2 - log_sigma - math.log(2 * math.pi) / 2).sum(axis=1)
        return log_prob, z / np.exp(log_sigma), z**2 - 1, np.zeros_like(out), np.ones_like(z)

    def update(self, batch, key):
        cfg, (times, num_envs) = self.cfg, batch.reward.shape
        value, after = (
            oracles.mlp(self.networks["critic"], obs, "tanh")[..., 0] for obs in (batch.obs, batch.next_obs)
        )
        advantage = oracles.gae(
            batch.reward, batch.terminated, batch.truncated, value, after, cfg.gamma, cfg.lam
        )
        lr, each = cfg.lr * self.share_of_lr(), max(1, round(cfg.minibatch / num_envs))
        for epoch in range(cfg.epochs):
            order = np.argsort(np.asarray(jax.random.uniform(jax.random.fold_in(key, epoch), times)))
            for first in range(0, times, each):
                chosen = order[first : first + each]
                self.descend(
                    lr,
                    *(
                        np.asarray(x)[chosen].reshape(len(chosen) * num_envs, *x.shape[2:])
                        for x in (
                            batch.obs,
                            batch.action,
                            batch.extras["log_prob"],
                            advantage,
                            advantage + value,
                        )
                    ),
                )
        self.updates += 1

    def descend(self, lr, obs, action, old_log_prob, advantage, target):
        """One step on minus eq. 9, on rows [M]."""
        cfg, nets, size = self.cfg, self.networks, len(advantage)
        if size > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob, by_out, by_sigma, entropy_by_out, entropy_by_sigma = self.policy(obs, action)
        ratio = np.exp(log_prob - old_log_prob)
        gone = np.where(advantage > 0, ratio > 1 + cfg.clip, ratio < 1 - cfg.clip)
        slope = (np.where(gone, 0.0, ratio * advantage))[:, None]
        out = -(slope * by_out + cfg.entropy * entropy_by_out) / size
        v = oracles.mlp(nets["critic"], obs, "tanh")
        grads = {
            "policy": oracles.mlp_gradient(nets["policy"], obs, out, "tanh")[0],
            "log_sigma": -(slope * by_sigma + cfg.entropy * entropy_by_sigma).sum(axis=0) / size,
            "critic": oracles.mlp_gradient(
                nets["critic"], obs, 2 * cfg.value_loss * (v - target[:, None]) / size, "tanh"
            )[0],
        }
        self.networks = self.adam.step(nets, grads, lr)
