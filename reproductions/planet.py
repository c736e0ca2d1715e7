"""PlaNet (G13): plans in the true simulator, a model that sees what will be, and what planning in it earns.

`--row G13` fits the model to pixels of random episodes and films what it expects; `--long` is the whole algorithm, on
the pendulum and on the cart with a pole, beside planning with the true simulator.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import planet
from polyak.drivers.act import actors
from polyak.envs.environment import to_bounds
from polyak.envs.worlds.pixels import PixelCartPoleSwingUp, PixelPendulum
from polyak.interface import Array, Spec
from polyak.parts.maximizers import cross_entropy_method
from polyak.parts.networks.rssm import Latent, WorldModel
from reproductions.finding import Finding, main, train

WORLDS: dict[str, Any] = {
    "PixelPendulum": PixelPendulum(size=8),
    "PixelCartPoleSwingUp": PixelCartPoleSwingUp(size=8),
}
LOOKAHEAD, ITERATIONS, SAMPLES, ELITES = 12, 10, 1000, 100  # of the paper
SHOWN, AHEAD, FILMED = 5, 20, 50  # frames that the model sees, frames that it expects then, episodes
PUBLISHED = 850.0  # CEM with the true simulator on cartpole swing-up, the paper's table 1
EPISODES = 100


def true_returns(name: str, count: int = 5) -> np.ndarray:
    """Returns [count] of planning with the true simulator."""
    env = WORLDS[name]
    step = jax.vmap(
        lambda state, action: env.step(state, to_bounds(env.spec.action, action), jax.random.key(0))
    )

    def decide(state: Array, key: Array) -> tuple[Array, Array]:
        def worth(plans: Array) -> Array:
            def go(carry: tuple, action: Array) -> tuple[tuple, None]:
                state, total = carry
                after = jax.vmap(step)(state, action)
                return (after.state, total + after.reward), None

            start = jnp.broadcast_to(state, (SAMPLES, *state.shape)), jnp.zeros((SAMPLES, count))
            return jax.lax.scan(go, start, jnp.moveaxis(plans, 2, 0)[..., None])[0][1]

        search = SAMPLES, ELITES, ITERATIONS
        action = cross_entropy_method(worth, key, (count, LOOKAHEAD), *search, answer="mean")[:, :1]
        after = step(state, action)
        return after.state, after.reward

    key_start, key_plan = jax.random.split(jax.random.key(0))
    start, _ = jax.vmap(env.reset)(jax.random.split(key_start, count))
    return np.asarray(
        jax.jit(partial(jax.lax.scan, decide))(start, jax.random.split(key_plan, env.time_limit))[1].sum(0)
    )


def random_returns(name: str, count: int = 100) -> np.ndarray:
    """Returns [count] of uniform actions."""
    env = WORLDS[name]

    def episode(key: Array) -> Array:
        key_start, key_act = jax.random.split(key)

        def one(state: Array, key: Array) -> tuple[Array, Array]:
            action = jax.random.uniform(key, (1,), minval=-1.0)
            after = env.step(state, to_bounds(env.spec.action, action), jax.random.key(0))
            return after.state, after.reward

        return jax.lax.scan(one, env.reset(key_start)[0], jax.random.split(key_act, env.time_limit))[1].sum()

    return np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), count)))


# ---- what the model expects


def frames(env: Any, key: Array) -> tuple[Array, Array]:
    """Pictures [T, S, S, 3] and actions [T, A] of one episode of smooth random actions."""
    key_start, key_act = jax.random.split(key)
    state, first = env.reset(key_start)

    def one(carry: tuple, key: Array) -> tuple[tuple, tuple]:
        state, obs, action = carry
        action = jnp.clip(0.8 * action + 0.6 * jax.random.normal(key, (1,)), -1.0, 1.0)
        after = env.step(state, to_bounds(env.spec.action, action), key)
        return (after.state, after.obs, action), (obs, action)

    keys = jax.random.split(key_act, SHOWN + AHEAD)
    return jax.lax.scan(one, (state, first, jnp.zeros(1)), keys)[1]


def expected(cfg: planet.Config, spec: Spec, model: WorldModel, pictures: Array, actions: Array) -> Array:
    """Pictures [T, S, S, 3] that the model sees, and from row SHOWN on expects, by its means."""
    seen = model.seen(pictures, jax.random.key(0), cfg.bits)

    def one(carry: tuple, now: tuple) -> tuple[tuple, Array]:
        (latent, before), (image, action, shown) = carry, now
        h = model.memory.advance(latent, before)
        prior, posterior = model.memory.prior(h), model.memory.posterior(h, model.encoder(image))
        latent = Latent(h, jnp.where(shown, posterior.mean, prior.mean))
        return (latent, action), model.decoder(latent.features)

    shown = jnp.arange(len(actions)) < SHOWN
    start = Latent(jnp.zeros(cfg.deterministic), jnp.zeros(cfg.stochastic)), jnp.zeros(spec.action.size)
    return jnp.clip(jax.lax.scan(one, start, (seen, actions, shown))[1] + 0.5, 0.0, 1.0)


def film(truth: Array, guess: Array, path: Path) -> None:
    """A film of some episodes: above the truth, below what the model expects; a bar where it sees nothing more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(list(np.asarray(x)), axis=2) for x in (truth, guess)]  # [T, S, episodes * S, 3]
    both = np.concatenate(rows, axis=1)
    both[:, both.shape[1] // 2 - 1] = np.where(np.arange(len(both)) < SHOWN, 0.8, 0.2)[:, None, None]
    images = (both * 255).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    imageio.imwrite(path, images, duration=150, loop=0)


def prediction(run: polyak.Run, env: Any, path: str) -> tuple[float, float]:
    """Mean squared error of what is expected, and of a world in which nothing moves any more; over FILMED episodes."""
    spec, cfg = dataclasses.replace(env.spec, num_envs=1), run.policy().cfg
    model = jax.tree.map(lambda x: x[0], actors(planet.algorithm)(run.state()))
    pictures, actions = jax.jit(jax.vmap(partial(frames, env)))(jax.random.split(jax.random.key(2), FILMED))
    guess = jax.jit(jax.vmap(partial(expected, cfg, spec, model)))(pictures, actions)
    truth = pictures / 255
    film(truth[:6], guess[:6], Path(path))
    still = jnp.broadcast_to(truth[:, SHOWN - 1, None], truth[:, SHOWN:].shape)
    off = lambda x: float(((x - truth[:, SHOWN:]) ** 2).mean())  # noqa: E731
    return off(guess[:, SHOWN:]), off(still)


SMALL = {
    "filters": 8,
    "deterministic": 64,
    "stochastic": 16,
    "hidden": 64,
    "lr": 3e-3,
    "free_nats": 0.5,
    "image_scale": 16.0,
}


def short() -> Finding:
    """The reference, and a model of the pixel pendulum from twenty random episodes."""
    reference = true_returns("PixelCartPoleSwingUp").mean()
    data = {
        "capacity": 2_000,
        "batch_size": 16,
        "length": 20,
        "warmup": 2_000,
        "steps": 100,
        "updates": 2_000,
    }
    run = train(
        "planet", "jax:PixelPendulum", steps=2_001, env_fields={"size": 16},
        config={**SMALL, "samples": 20, "elites": 5, "iterations": 2, "data": data},
    )  # fmt: skip
    guess, still = prediction(run, PixelPendulum(size=16), "runs/planet.gif")
    claims = {
        f"planning with the true simulator swings the pole up as published (at least 850, found {reference:.0f})": bool(
            reference >= PUBLISHED
        ),
        f"what the model expects is nearer than what it saw last (at most half the error, found {guess / still:.2f})": (
            guess < 0.5 * still
        ),
    }
    return Finding(
        claims,
        f"planning with the true simulator {reference:.0f} on cartpole swing-up; error of {AHEAD} frames that were not "
        f"shown {guess:.4f}, {still:.4f} if nothing moved; film in runs/planet.gif",
    )


def long(seeds: int = 3) -> Finding:
    """PlaNet for a hundred episodes of each world, as a fraction of what planning with the true simulator earns.

    On the pendulum returns are costs: there the fraction is of the way from random actions to the true simulator.
    """
    claims, said = {}, []
    for name, env in WORLDS.items():
        run = train(
            "planet",
            f"jax:{name}",
            steps=EPISODES * env.time_limit,
            seeds=seeds,
            env_fields={"size": 32},
            eval_episodes=10,
        )
        found = run.evaluate(episodes=10).returns.mean(axis=1)
        low, high = random_returns(name).mean(), true_returns(name).mean()
        way = (found.mean() - low) / (high - low)
        fraction = found.mean() / high if high > 0 else way
        guess, still = prediction(run, env.replace(size=32), f"runs/planet-{name}.gif")
        claims[f"{name}: at least 0.7 of planning with the true simulator (found {fraction:.2f})"] = bool(
            fraction >= 0.7
        )
        said.append(
            f"{name} {found.mean():.0f} ({', '.join(f'{x:.0f}' for x in found)}), {fraction:.2f} of the true "
            f"simulator's {high:.0f} ({way:.2f} of the way from random, {low:.0f}); frames {guess:.4f}, if nothing "
            f"moved {still:.4f}"
        )
    return Finding(claims, f"after {EPISODES} episodes, {seeds} seeds: {'; '.join(said)}")


if __name__ == "__main__":
    main({"G13": short}, long={"G13": long})
