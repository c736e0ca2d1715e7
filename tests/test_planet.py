"""PlaNet against slow float64 loops: the bound over sequences with ends, overshooting, beliefs, plans."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.signal
import scipy.stats
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import planet
from polyak.envs.worlds.pixels import CartPoleSwingUp, PixelCartPoleSwingUp, PixelPendulum
from polyak.interface import Box, Replay, Spec
from polyak.parts.networks.images import coarse, decoder, dequantised, encoder
from polyak.parts.networks.rssm import Latent
from polyak.parts.networks.squares import four_of_each, squares

SPEC = Spec(obs=Box((2,)), action=Box((1,), -2.0, 2.0))
B, L, D, S = 2, 5, 3, 2
CFG = planet.Config(
    deterministic=D, stochastic=S, hidden=3, lr=1e-2, free_nats=0.3, reward_scale=2.0, image_scale=1.5, max_norm=0.5,
    samples=12, elites=3, iterations=2, lookahead=3, gamma=0.9, data=Replay(length=L, batch_size=B),
)  # fmt: skip


def start(cfg=CFG):
    return jax.jit(lambda key: planet.init(cfg, SPEC, key), compiler_options=QUICK)(jax.random.key(0))


# ---- the model, by loops


def linear(layer, x):
    return x @ layer.weight + layer.bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def advance(memory, h, s, action):
    """One step of the recurrent unit, of one sequence."""
    x = np.maximum(linear(memory.inputs, np.concatenate([s, action])), 0)
    gates = sigmoid(linear(memory.unit.gates, np.concatenate([x, h])))
    reset, keep = gates[:D], gates[D:]
    return keep * h + (1 - keep) * np.tanh(linear(memory.unit.candidate, np.concatenate([x, reset * h])))


def gaussian(net, x):
    out = mlp(net, x)
    return out[:S], np.log1p(np.exp(out[S:])) + 0.1


def kl(q, p):
    """KL of diagonal Gaussians: the sum of those of each number."""
    return sum(
        np.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
        for mq, sq, mp, sp in zip(*q, *p, strict=True)
    )


class Slow:
    """Equation 3, one row of one sequence after the other."""

    def __init__(self, cfg, state):
        self.cfg, self.model = cfg, float64(state.model)
        self.clock = [0, 0, 0]
        self.adam = Adam(cfg.lr, eps=cfg.epsilon, max_norm=cfg.max_norm)

    def update(self, batch, key):
        self.clock[0] += 1
        _, key_infer, key_shoot = jax.random.split(key, 3)
        eps = np.asarray(jax.random.normal(key_infer, (L, B, S)), float)
        shots = {
            d: np.asarray(jax.random.normal(jax.random.fold_in(key_shoot, d), (L, B, S)), float)
            for d in range(1, self.cfg.overshooting + 1)
        }
        model, fixed = self.model, self.posteriors(self.model, batch, eps)
        self.model = self.adam.step(
            model, finite_differences(lambda m: self.loss(m, batch, eps, shots, fixed), model)
        )

    def beliefs(self, model, batch, b, eps):
        """h, s, prior, posterior and the rows since the belief began, of each row."""
        found, last = [], batch.terminated[b] | batch.truncated[b]
        for t in range(L):
            begins = t == 0 or last[t - 1]
            h, s, action, age = (
                (np.zeros(D), np.zeros(S), np.zeros(1), 0)
                if begins
                else (found[-1][0], found[-1][1], batch.action[b, t - 1].astype(float), found[-1][4] + 1)
            )
            h = advance(model.memory, h, s, action)
            embedding = mlp(model.encoder, batch.obs[b, t].astype(float))
            prior = gaussian(model.memory.prior_net, h)
            posterior = gaussian(model.memory.posterior_net, np.concatenate([h, embedding]))
            found.append((h, posterior[0] + posterior[1] * eps[t][b], prior, posterior, age))
        return found

    def posteriors(self, model, batch, eps):
        return [[row[3] for row in self.beliefs(model, batch, b, eps)] for b in range(B)]

    def loss(self, model, batch, eps, shots, fixed):
        total, cfg = 0.0, self.cfg
        for b in range(B):
            rows = self.beliefs(model, batch, b, eps)
            for t, (h, s, prior, posterior, age) in enumerate(rows):
                x = np.concatenate([h, s])
                seeing = ((mlp(model.decoder, x) - batch.obs[b, t]) ** 2).sum() / 2
                gaining = 0.0
                if age:
                    gaining = (mlp(model.reward, x)[0] - batch.reward[b, t - 1]) ** 2 / 2
                paid = max(kl(posterior, prior), cfg.free_nats)
                for d in range(2, cfg.overshooting + 1):
                    if age >= d:
                        paid += max(
                            kl(fixed[b][t], self.shot(model, batch, rows, b, t, d, shots)), cfg.free_nats
                        )
                if cfg.overshooting > 1:
                    paid /= cfg.overshooting
                total += batch.weight[b, t] * (cfg.image_scale * seeing + cfg.reward_scale * gaining + paid)
        return total / (B * L)

    def shot(self, model, batch, rows, b, t, d, shots):
        """The prior of row t from what was believed d rows before."""
        h, s = rows[t - d][:2]
        for i in range(1, d + 1):
            row = t - d + i
            h = advance(model.memory, h, s, batch.action[b, row - 1].astype(float))
            prior = gaussian(model.memory.prior_net, h)
            s = prior[0] + prior[1] * shots[i][row, b]
        return prior


@pytest.mark.parametrize("overshooting", [0, 3])
def test_updates_climb_the_bound_of_equation_3(overshooting):
    cfg = dataclasses.replace(CFG, overshooting=overshooting)
    update = jax.jit(lambda *args: planet.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [
        oracles.as_batch(oracles.rows(2, SPEC.action, (B, L), seed, ends=ends), cfg.gamma, seed)
        for seed, ends in enumerate((0.2, 0.1))
    ]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches)


# ---- beliefs and plans


def test_the_belief_follows_the_history():
    state, rng = start(), np.random.default_rng(0)
    model, key = float64(state.model), jax.random.key(3)
    memory = planet.memory(CFG, SPEC, jnp.arange(1), jnp.zeros(1, int), key)
    h, s, action = np.zeros(D), np.zeros(S), np.zeros(1)
    act = jax.jit(lambda *args: planet.act(CFG, SPEC, *args, False), compiler_options=QUICK)
    for _ in range(3):
        obs = rng.normal(size=2).astype(np.float32)
        action_next, memory, _ = act(state.model, memory, obs[None], key)
        h = advance(model.memory, h, s, action)
        s = gaussian(model.memory.posterior_net, np.concatenate([h, mlp(model.encoder, obs.astype(float))]))[
            0
        ]
        action = np.asarray(action_next, float)[0]
        np.testing.assert_allclose(memory[0].h[0], h, atol=1e-5)
        np.testing.assert_allclose(memory[0].s[0], s, atol=1e-5)
        np.testing.assert_allclose(memory[1][0], action)


def test_exploration_adds_gaussian_noise_inside_the_bounds():
    cfg = dataclasses.replace(CFG, exploration=0.1, samples=2, elites=1, iterations=1, lookahead=1)
    state, n = start(cfg), 500
    memory = planet.memory(cfg, SPEC, jnp.arange(n), jnp.zeros(n, int), jax.random.key(0))
    args = state.model, memory, jnp.zeros((n, 2))
    action, (_, remembered), _ = planet.act(cfg, SPEC, *args, jax.random.key(1), True)
    quiet = dataclasses.replace(cfg, exploration=0.0)
    plain, _, _ = planet.act(quiet, SPEC, *args, jax.random.key(1), True)
    inside = np.abs(plain) < 0.6
    assert inside.sum() > 200
    assert scipy.stats.kstest((action - plain)[inside] / 0.1, "norm").pvalue > 0.001
    assert np.abs(action).max() <= 1
    np.testing.assert_array_equal(action, remembered)


def test_the_plan_is_the_mean_of_the_best_ways():
    state = start()
    rng, (J, H) = np.random.default_rng(1), (CFG.samples, CFG.lookahead)
    h, s = rng.normal(size=(1, D)), rng.normal(size=(1, S))
    got = planet.plan(CFG, SPEC, state.model, Latent(jnp.float32(h), jnp.float32(s)), jax.random.key(5))
    key_search, key_noise = jax.random.split(jax.random.key(5))
    eps = np.asarray(jax.random.normal(key_noise, (H, J, 1, S)), float)
    model, mean, std = float64(state.model), np.zeros(H), np.ones(H)
    for i in range(CFG.iterations):
        noise = jax.random.normal(jax.random.fold_in(key_search, i), (J, 1, H))
        plans, worth = np.clip(mean + std * np.asarray(noise, float)[:, 0], -1, 1), []
        for j in range(J):
            hj, sj, total = h[0], s[0], 0.0
            for t in range(H):
                hj = advance(model.memory, hj, sj, plans[j, t : t + 1])
                prior = gaussian(model.memory.prior_net, hj)
                sj = prior[0] + prior[1] * eps[t][j, 0]
                total += CFG.gamma**t * mlp(model.reward, np.concatenate([hj, sj]))[0]
            worth.append(total)
        best = plans[np.argsort(worth)[-CFG.elites :]]
        mean, std = best.mean(axis=0), np.maximum(best.std(axis=0), 1e-3)
    np.testing.assert_allclose(got[0, 0], mean[0], atol=1e-4)


# ---- images


def test_an_image_is_seen_in_five_bits_with_noise_below_the_last():
    obs = np.random.default_rng(0).integers(256, size=(50, 8, 8, 3), dtype=np.uint8)
    seen = np.asarray(dequantised(obs, jax.random.key(0), 5), float)
    below = (seen + 0.5) * 32 - obs // 8
    assert 0 <= below.min() < 0.01
    assert 0.99 < below.max() <= 1
    assert abs(below.mean() - 0.5) < 0.01


def test_filters_are_those_of_scipy():
    net = encoder(jax.random.key(0), 8, 2, 3)
    image = np.random.default_rng(0).normal(size=(5, 2, 8, 8, 2)).astype(np.float32)
    padded = np.pad(image[3, 1], ((1, 1), (1, 1), (0, 0)))
    weight = np.zeros((4, 4, 2, 3))  # the layer's own order: squares of 2 x 2, and in each of 2 x 2 again
    for (i, j, y, x), part in zip(
        np.ndindex(2, 2, 2, 2), np.asarray(net.layers[0].weight).reshape(16, 2, 3), strict=True
    ):
        weight[2 * i + y, 2 * j + x] = part
    want = [
        sum(scipy.signal.correlate(padded[..., c], weight[..., c, f], "valid") for c in range(2))[::2, ::2]
        for f in range(3)
    ]
    want = np.maximum(np.stack(want, axis=-1) + np.asarray(net.layers[0].bias), 0)
    assert net(image).shape == (5, 2, net.size)
    np.testing.assert_allclose(net(image)[3, 1], want.ravel(), atol=1e-5)


def test_a_layer_of_the_decoder_is_the_transpose_of_one_of_the_encoder():
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(8, 8, 2)), rng.normal(size=(4, 4, 3))
    weight = rng.normal(size=(2, 2, 2, 2, 2, 3))  # of the encoder: square, place in it, channel, filter
    halved = coarse(jnp.asarray(wide)) @ weight.reshape(32, 3)
    turned = weight[::-1, ::-1].transpose(0, 1, 5, 2, 3, 4).reshape(12, 8)  # a place is in four squares
    doubled = four_of_each(squares(jnp.asarray(narrow), 2, edge=1) @ turned)[1:-1, 1:-1]
    assert doubled.shape == wide.shape
    np.testing.assert_allclose((halved * narrow).sum(), (doubled * wide).sum(), rtol=1e-4)


def test_a_decoder_makes_images_of_the_encoders_size():
    made = lambda x, key, side: decoder(key, 7, side, 3, 4)(x)  # noqa: E731
    for side in (8, 32, 64):
        image = jax.eval_shape(partial(made, side=side), jnp.zeros((5, 2, 7)), jax.random.key(0))
        assert image.shape == (5, 2, side, side, 3)


def test_what_it_cannot_learn_from_is_refused():
    odd = dataclasses.replace(SPEC, obs=Box((30, 40, 3), 0, 255, "uint8"))
    assert "square" in planet.wrong(CFG, odd)[0]
    assert "sequences" in planet.wrong(dataclasses.replace(CFG, data=Replay()), SPEC)[0]
    assert "elites" in planet.wrong(dataclasses.replace(CFG, elites=99), SPEC)[0]
    assert not planet.wrong(CFG, SPEC)


# ---- the worlds


@pytest.mark.parametrize("world", [PixelPendulum, PixelCartPoleSwingUp])
def test_the_camera_shows_where_things_are_and_not_how_fast(world):
    env = world(size=32)
    state, obs = env.reset(jax.random.key(0))
    assert obs.shape == (32, 32, 3)
    assert obs.dtype == np.uint8
    speeds = [1] if world is PixelPendulum else [1, 3]
    picture = lambda state: np.asarray(env.picture(state) if len(speeds) == 1 else env.picture(state, 32))  # noqa: E731
    for number in range(len(state)):
        moved = picture(state.at[number].add(0.5))
        assert (moved == np.asarray(obs)).all() == (number in speeds)


def test_an_action_is_kept_and_its_rewards_are_summed():
    one, many = CartPoleSwingUp(), PixelCartPoleSwingUp(size=8)
    start, _ = one.reset(jax.random.key(0))
    action, state, total = jnp.array([0.7]), start, 0.0
    for _ in range(8):
        step = one.step(state, action, jax.random.key(0))
        state, total = step.state, total + step.reward
    kept = jax.jit(many.step)(start, action, jax.random.key(0))
    np.testing.assert_allclose(kept.state, state, atol=1e-5)
    np.testing.assert_allclose(kept.reward, total, atol=1e-5)


def test_the_swing_up_conserves_energy_without_force():
    env = CartPoleSwingUp().replace(timestep=1e-4)

    def energy(state):
        x_dot, angle, angle_dot = (float(state[i]) for i in (1, 2, 3))
        half, mass = env.length, env.mass_pole
        speed = (x_dot + half * np.cos(angle) * angle_dot) ** 2 + (half * np.sin(angle) * angle_dot) ** 2
        turning = mass * half**2 / 3 * angle_dot**2
        return (
            env.mass_cart * x_dot**2 / 2
            + mass * speed / 2
            + turning / 2
            + mass * env.gravity * half * np.cos(angle)
        )

    state = jnp.array([0.0, 0.1, 2.0, 0.5])
    move = jax.jit(lambda state: jax.lax.fori_loop(0, 5000, lambda _, s: env.move(s, jnp.zeros(1))[0], state))
    assert abs(energy(move(state)) - energy(state)) < 2e-3
    assert abs(float(move(state)[2]) - 2.0) > 0.3


def test_the_best_reward_is_upright_in_the_middle_at_rest():
    env = CartPoleSwingUp()
    step = lambda *state: float(env.step(jnp.array(state), jnp.zeros(1), jax.random.key(0)).reward)  # noqa: E731
    assert step(0.0, 0.0, 0.0, 0.0) == pytest.approx(1.0, abs=1e-4)
    assert step(0.0, 0.0, np.pi, 0.0) == pytest.approx(0.0, abs=1e-3)
    assert step(1.8, 0.0, 0.0, 0.0) < 0.7
    assert float(
        env.step(jnp.array([1.79, 5.0, 0.0, 0.0]), jnp.ones(1), jax.random.key(0)).state[0]
    ) == pytest.approx(1.8)
