"""The variational auto-encoder against a slow float64 loop written from Algorithm 1 of Kingma & Welling 2014."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import vae
from polyak.interface import Box, Discrete, Spec

B, J = 8, 3
SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
CFG = vae.Config(hidden=(4,), latent=J, variance=0.3, beta=0.7, lr=1e-2)
PICTURE = Spec(
    obs={"camera": Box((9, 12, 3), 0, 255, "uint8"), "car": Box((2,))}, action=Box((1,), -1.0, 1.0)
)


class Slow:
    """Algorithm 1, one row after the other: the three networks are moved together."""

    def __init__(self, cfg, state):
        self.cfg, self.adam = cfg, Adam(cfg.lr)
        self.encoder, self.spread, self.decoder = float64((state.encoder, state.spread, state.decoder))

    def update(self, batch, key):
        noise = np.asarray(jax.random.normal(key, (B, J)), float)

        def bound(nets):
            encoder, spread, decoder = nets
            total = 0.0
            for i in range(B):
                mean, deviation = mlp(encoder, batch.obs[i]), np.exp(mlp(spread, batch.obs[i]) / 2)
                said = mlp(decoder, mean + deviation * noise[i])
                likelihood = -sum((batch.obs[i] - said) ** 2) / (2 * self.cfg.variance)
                divergence = 0.0
                for j in range(J):  # of N(mu, sigma^2) from N(0, 1)
                    divergence += -np.log(deviation[j]) + (deviation[j] ** 2 + mean[j] ** 2) / 2 - 0.5
                total += batch.weight[i] * (self.cfg.beta * divergence - likelihood)
            return total / B

        nets = (self.encoder, self.spread, self.decoder)
        self.encoder, self.spread, self.decoder = self.adam.step(nets, finite_differences(bound, nets))


def test_three_updates_are_those_of_algorithm_1():
    init = jax.jit(lambda key: vae.init(CFG, SPEC, key), compiler_options=QUICK)
    update = jax.jit(lambda *args: vae.update(CFG, SPEC, *args), compiler_options=QUICK)
    state = init(jax.random.key(0))
    batches = [oracles.make_batch(2, SPEC.action, B, CFG.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, state, Slow(CFG, state), batches)


def test_of_an_observation_with_a_picture_it_is_the_picture_that_is_encoded():
    rng = np.random.default_rng(0)
    init = jax.jit(lambda key: vae.init(CFG, PICTURE, key), compiler_options=QUICK)
    state = init(jax.random.key(0))
    obs = {"camera": rng.integers(256, size=(B, 9, 12, 3), dtype=np.uint8), "car": np.zeros((B, 2))}
    np.testing.assert_array_equal(vae.seen(PICTURE, obs), obs["camera"])
    np.testing.assert_allclose(vae.numbers(PICTURE, obs), obs["camera"] / 255.0, rtol=1e-6)
    latent = state.encoder(obs["camera"])
    assert latent.shape == (B, J)
    assert state.decoder(latent).shape == (B, 9, 12, 3)


def test_reconstructions_of_one_picture_come_near_to_it():
    """Over and over, one picture of two halves: the error falls far below that of its mean colour."""
    picture = np.zeros((9, 12, 3), np.uint8)
    picture[:, 6:] = 200
    batch = oracles.make_batch(2, PICTURE.action, B, 1.0)
    obs = {"camera": np.tile(picture, (B, 1, 1, 1)), "car": np.zeros((B, 2), np.float32)}
    batch = batch._replace(obs=obs, next_obs=obs)
    cfg = vae.Config(latent=J, lr=1e-2)
    state = vae.init(cfg, PICTURE, jax.random.key(0))

    @jax.jit
    def many(state):
        def once(state, key):
            made = vae.update(cfg, PICTURE, state, batch, key)
            return made.state, made.metrics["error"]

        return jax.lax.scan(once, state, jax.random.split(jax.random.key(1), 150))

    _, error = many(state)
    assert float(error[-1]) < 0.1 * (picture / 255).var()


@pytest.mark.parametrize("action", [Box((2,), -3.0, 3.0), Discrete(5)])
def test_it_acts_at_random_and_stands_still_without_exploring(action):
    spec = Spec(obs=Box((2,)), action=action)
    obs = jnp.zeros((1000, 2))
    drawn, _, _ = vae.act(CFG, spec, (), (), obs, jax.random.key(0), True)
    still, _, _ = vae.act(CFG, spec, (), (), obs, jax.random.key(0), False)
    assert (np.asarray(still) == 0).all()
    drawn = np.asarray(drawn)
    if isinstance(action, Discrete):
        assert set(drawn.tolist()) == set(range(5))
    else:
        assert drawn.shape == (1000, 2)
        assert abs(drawn.mean()) < 0.05
        assert drawn.std() == pytest.approx(1 / np.sqrt(3), abs=0.02)
