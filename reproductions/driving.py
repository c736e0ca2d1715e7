"""Learning to drive in a day (D7 to D10): Kendall et al. 2018 (arXiv:1807.00412), in a simulator of our own.

The simulator is another, so that the protocol is compared with the paper's and not the numbers.
"""

import functools
import io
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from imageio.v3 import imwrite

import polyak
from polyak.commands.results import say_evaluation
from polyak.envs.find import find
from polyak.envs.worlds.lane import AHEAD, Lane
from polyak.envs.worlds.road_view import Camera, paint
from polyak.interface import Algorithm, Array, OnPolicy, Spec, Tree, Update
from polyak.runs.evaluation import Evaluation
from reproductions.finding import Finding, interval, main, train

# ---- drivers that learn nothing


@dataclass(frozen=True)
class Config:
    """Nothing to set."""

    gamma: float = 1.0
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=1))


def nothing(cfg: Any, spec: Spec, key: Array) -> Tree:
    """No weights."""
    return jnp.zeros(())


def stay(cfg: Any, spec: Spec, state: Tree, batch: Any, key: Array) -> Update:
    """No learning."""
    return Update(state, {})


def straight(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The zero policy: wheels straight, half the largest speed."""
    return jnp.zeros((len(jax.tree.leaves(obs)[0]), 2)), memory, ()


def anywhere(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The random policy: another steering angle and another speed in each step."""
    return jax.random.uniform(key, (len(jax.tree.leaves(obs)[0]), 2), minval=-1), memory, ()


def told(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Who is told where the lane is: turns with the road a little ahead, and back to its centre."""
    offset, angle, bend = obs[:, 0], obs[:, 1], obs[:, 2 : 2 + len(AHEAD)][:, :2].mean(axis=1)
    world = Lane()
    wheel = jnp.arctan(world.wheelbase * (bend - 0.35 * offset - 1.2 * angle))
    return jnp.stack([wheel / world.max_steering, jnp.ones_like(wheel)], axis=1), memory, ()


def driver(act: Any) -> Algorithm:
    """The record of a policy that is not learned."""
    read = lambda state: state  # noqa: E731
    return Algorithm(Config, ("continuous",), nothing, read, act, stay, family="search", learns=False)


zero, random, teacher = driver(straight), driver(anywhere), driver(told)
ROUTE = {"safety_driver": True, "first_road": 1_000_000, "roads": 1_000}  # roads that no training sees


def drive(name: str, episodes: int, **fields: Any) -> Evaluation:
    """Routes of 250 m with a safety driver, by a policy of this file."""
    env_fields = {**ROUTE, "observation": "features", **fields}
    return polyak.Agent(f"reproductions.driving:{name}", "jax:Lane", env_fields=env_fields).evaluate(episodes)


# ---- D9


def roads() -> Finding:
    """Each seed has a road of its own, thousands of frames a second, and a lane that can be followed."""
    env, count = find("jax:Lane"), 256
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    (road, _), obs = jax.jit(jax.vmap(env.reset))(keys)
    seen = np.asarray(obs["camera"], np.int16).reshape(count, -1)
    apart = min(int(np.abs(seen[i + 1 :] - seen[i]).max(axis=1).min()) for i in range(count - 1))
    bends = np.asarray(road.curvature)
    bent = min(float(np.abs(bends[i + 1 :] - bends[i]).max(axis=1).min()) for i in range(count - 1))
    rate = frames_a_second(env)
    driven = drive("teacher", 200)
    distance, left = driven.measures["distance"], driven.measures["disengagements"].sum()
    claims = {
        f"the first pictures of any 2 of {count} seeds differ, by at least {apart} of 255 somewhere": apart
        > 8,
        f"so do their roads, by at least {bent:.3f} /m of curvature somewhere": bent > 1e-3,
        f"{rate:,.0f} frames a second of 80 x 60 pixels, stepping included (wanted: 3,000)": rate >= 3_000,
        f"who is told where the lane is leaves it {left:.0f} times in {distance.sum():,.0f} m": left == 0,
    }
    return Finding(
        claims, f"{count} different roads; {rate:,.0f} frames/s at 80 x 60, steps included, on this CPU"
    )


def frames_a_second(env: Any, cars: int = 64, steps: int = 40, tries: int = 5) -> float:
    """Pictures a second in graph, the best of some tries: other programs may be at work."""
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), cars))[0]
    action = jnp.tile(jnp.array([0.0, 1.4]), (cars, 1))

    @jax.jit
    def roll(states: Tree, key: Array) -> tuple[Tree, Array]:
        def step(states: Tree, key: Array) -> tuple[Tree, Array]:
            made = jax.vmap(env.step)(states, action, jax.random.split(key, cars))
            return made.state, made.obs["camera"].max(axis=(1, 2, 3))

        return jax.lax.scan(step, states, jax.random.split(key, steps))

    jax.block_until_ready(roll(states, jax.random.key(1)))
    best = np.inf
    for _ in range(tries):
        began = time.perf_counter()
        jax.block_until_ready(roll(states, jax.random.key(1)))
        best = min(best, time.perf_counter() - began)
    return cars * steps / best


# ---- D10


def columns() -> Finding:
    """What `evaluate` says of a driver is what a loop over its steps counts."""
    episodes = 20
    played = drive("zero", episodes)
    with redirect_stdout(io.StringIO()) as said:
        say_evaluation("zero", played)
    print(said.getvalue(), end="")
    counted = counted_by_hand(episodes)
    sums = {name: float(value.sum()) for name, value in played.measures.items()}
    shown = played.summary()
    per = counted["distance"] / counted["disengagements"]
    names = ("distance", "disengagements", "time", "metres_per_disengagement")
    told_all = drive("teacher", episodes)
    with redirect_stdout(io.StringIO()) as said_of_teacher:
        say_evaluation("teacher", told_all)
    claims = {
        "evaluate prints " + ", ".join(names): all(f"  {name}: " in said.getvalue() for name in names),
        f"its sums are those of a loop over the steps ({counted})": all(
            np.isclose(sums[name], counted[name], rtol=1e-4) for name in counted
        ),
        f"metres per disengagement is the ratio of these sums, {per:.2f}": bool(
            np.isclose(shown["metres_per_disengagement"], per, rtol=1e-4)
        ),
        "it is undefined where nobody had to step in, and said to be": "metres_per_disengagement: undefined"
        in said_of_teacher.getvalue(),
    }
    line = f"{per:.1f} m per disengagement, {counted['disengagements']:.0f} disengagements, "
    line += (
        f"{counted['distance']:,.0f} m, {counted['time']:,.0f} s (zero policy, {episodes} routes of 250 m)"
    )
    return Finding(claims, line)


def counted_by_hand(episodes: int) -> dict[str, float]:
    """Distance, disengagements and time of the zero policy on the same routes, counted from the car's places."""
    from polyak.drivers.keys import Keys, episode_keys

    env = find("jax:Lane", {**ROUTE, "observation": "features"})
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    key, sums = Keys.of(np.uint32(0)).evaluate, {"distance": 0.0, "disengagements": 0.0, "time": 0.0}
    for episode in range(episodes):
        at = lambda t: episode_keys(key, jnp.array([episode]), jnp.array([episode]), jnp.array([t]))[0]  # noqa: B023, E731
        (road, car), _ = reset(at(0))
        t = 0
        while float(car.progress) < env.length and t < env.time_limit:
            t += 1
            (road, after), _, *_ = step((road, car), jnp.array([0.0, env.max_speed / 2]), at(t))
            sums["disengagements"] += float(car.speed) > 0 and float(after.speed) == 0
            car = after
        sums["distance"] += float(car.progress)
        sums["time"] += t * float(env.timestep)
    return sums


# ---- D8: an encoder from random driving


class Scale(NamedTuple):
    """How large an experiment is."""

    height: int  # pixels of the camera
    width: int
    looks: int  # that roads have; 0: each its own
    seeds: int  # one after the other
    seeing: int  # steps of random driving that the auto-encoder learns from
    driving: int  # steps of each policy
    every: int  # steps from one evaluation to the next
    routes: int  # of 250 m, in each of them

    @property
    def env_fields(self) -> dict[str, int]:
        """What training and tests have in common."""
        return {"height": self.height, "width": self.width, "looks": self.looks}


# One look, as the paper has one road; curves, widths and places are new in each episode, and new again in a test.
SHORT = Scale(height=30, width=40, looks=1, seeds=1, seeing=2_000, driving=2_400, every=100, routes=4)
LONG = SHORT._replace(seeds=5)
PICTURE = Path("runs") / "lane_reconstructions.png"
DRIVING = {
    "gamma": 0.9,
    "network": "strided",
    "hidden": (64,),
    "tau": 0.01,
    "sigma": 0.3,
    "theta": 0.3,
    "half_life": 2_000,
    "data.capacity": 5_000,
    "data.warmup": 500,
    "data.steps": 10,
    "data.updates": 50,
    "data.priority": 0.6,
}
SEEING = {
    "variance": 0.002,
    "data.capacity": 5_000,
    "data.warmup": 1_000,
    "data.steps": 10,
    "data.updates": 10,
}


@functools.cache
def see(scale: Scale, seed: int) -> polyak.Run:
    """An auto-encoder, after random driving."""
    return train(
        "vae",
        "jax:Lane",
        steps=scale.seeing,
        seed=seed,
        env_fields=scale.env_fields,
        config=SEEING,
        preset=False,
        eval_every=0,
        name=f"seen-{seed}",
    )


def held_out(scale: Scale, count: int = 512) -> tuple[Array, np.ndarray]:
    """Pictures [K, H, W, 3] of roads that no training sees, from anywhere in the lane, and offset and angle [K, 2]."""
    env = find("jax:Lane", {**ROUTE, **scale.env_fields})
    keys = jax.random.split(jax.random.key(8), count)
    (road, car), _ = jax.jit(jax.vmap(env.reset))(keys)
    draw = np.random.default_rng(8)
    place = {"progress": (5, 240), "offset": (-0.8, 0.8), "angle": (-0.25, 0.25)}
    places = {name: draw.uniform(*bounds, count).astype(np.float32) for name, bounds in place.items()}
    camera = Camera(env.height, env.width, env.field_of_view, env.pitch)
    look = jax.jit(jax.vmap(lambda road, car: paint(camera, env.camera_height, road, car)))
    return look(road, car.replace(**places)), np.stack([places["offset"], places["angle"]], axis=1)


def explained(latent: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each column of the truth, the share of its variance that is linear in the latent; of rows kept apart."""
    x = np.concatenate([latent, np.ones((len(latent), 1))], axis=1)
    half = len(x) // 2
    weight, *_ = np.linalg.lstsq(x[:half], truth[:half], rcond=None)
    left = truth[half:] - x[half:] @ weight
    return 1 - left.var(axis=0) / truth[half:].var(axis=0)


def save_reconstructions(seen: np.ndarray, made: np.ndarray, times: int = 4) -> None:
    """A picture of pictures: what was seen, above what came of it."""
    rows = [np.concatenate(list(part[:12]), axis=1) for part in (seen / 255, made)]
    PICTURE.parent.mkdir(exist_ok=True)
    image = np.concatenate(rows, axis=0).repeat(times, axis=0).repeat(times, axis=1)
    imwrite(PICTURE, (255 * image).round().clip(0, 255).astype(np.uint8))


def coded(scale: Scale, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What an auto-encoder makes of `held_out`: ten numbers each [K, 10], and pictures again [K, H, W, 3]."""
    state = see(scale, seed).state()
    nets = jax.tree.map(lambda leaf: leaf[0], (state.encoder, state.decoder))
    latent, made = jax.jit(lambda nets, x: (nets[0](x), nets[1](nets[0](x))))(nets, held_out(scale)[0])
    return np.asarray(latent), np.asarray(made)


def encoder(scale: Scale = SHORT) -> Finding:
    """What an auto-encoder makes of roads that it never saw, and what its ten numbers say of the lane."""
    pictures, truth = held_out(scale)
    every_seed = [coded(scale, seed) for seed in range(scale.seeds)]
    latent, made = (np.stack(part) for part in zip(*every_seed, strict=True))  # [S, K, ...]
    x = np.asarray(pictures) / 255.0
    kept = 1 - ((x - made) ** 2).mean(axis=(1, 2, 3, 4)) / x.var(axis=0).mean()
    save_reconstructions(np.asarray(pictures), made[0])
    told = np.array([explained(each, truth) for each in latent])
    (offset, angle), least = told.min(axis=0), float(latent.std(axis=1).min())
    claims = {
        f"each of the ten numbers varies from picture to picture, by at least {least:.2f}": least > 0.1,
        f"pictures of roads never seen come back with {kept.round(2).tolist()} of their variance": bool(
            (kept > 0).all()
        ),
        f"half of the offset and of the angle is linear in the ten numbers: {told.round(2).tolist()}": bool(
            (told >= 0.5).all()
        ),
        f"reconstructions are saved ({PICTURE})": PICTURE.exists(),
    }
    said = f"reconstructions hold {kept.min():.0%} of the variance of unseen pictures; "
    said += f"linear in the ten numbers: {offset:.0%} of the offset, {angle:.0%} of the angle"
    return Finding(claims, said)


# ---- D7 and the rest of D8: learning to drive


class Learned(NamedTuple):
    """What came of a policy's training: a line of Table I, of one seed, or [S] each."""

    episodes: Any  # of training until the first evaluation without a disengagement, or all; with `solved`
    metres: Any  # driven in them
    minutes: Any  # likewise, of the car's time
    solved: Any  # bool
    per_route: Any  # disengagements on a route of 250 m, on other roads than those that said it was solved
    distance: Any  # m of a route that were driven


@functools.cache
def learn(scale: Scale, seed: int, name: str) -> polyak.Run:
    """DDPG from pixels, or "vae": an encoder that has seen random driving is taken over and kept.

    Training ends once the task is solved, an evaluation without a disengagement: Table I counts until then.
    """
    encoders = ("actor/encoder", "critic/encoder")
    seen = see(scale, seed) if name == "vae" else None
    return train(
        "ddpg",
        "jax:Lane",
        steps=scale.driving,
        seed=seed,
        env_fields=scale.env_fields,
        eval_env_fields=ROUTE,
        eval_every=scale.every,
        eval_episodes=scale.routes,
        config=DRIVING,
        preset=False,
        init=tuple(f"{seen.path}:encoder={place}" for place in encoders) if seen else (),
        freeze=encoders if seen else (),
        name=f"{name}-{seed}",
        on_evaluation=lambda event: event.mean("eval/disengagements") > 0,
    )


def table_row(metrics: list[dict[str, Any]], tested: Evaluation) -> Learned:
    """A seed's part in a line of Table I, from the lines that its run logged and a test on other roads."""
    spent, solved = np.zeros(3), False
    for line in metrics:
        if count := 0 if solved else line.get("episode/count", 0):
            spent += count * np.array([1.0, line["episode/distance"], line["episode/time"] / 60])
        solved = solved or line.get("eval/disengagements") == 0
    return Learned(*spent, solved, *on_a_route(tested))


def on_a_route(driven: Evaluation) -> tuple[float, float]:
    """Disengagements on a route and metres of it, the mean; the last step may lead beyond the route."""
    distance = driven.measures["distance"].clip(max=Lane().length)
    return float(driven.measures["disengagements"].mean()), float(distance.mean())


TESTS = 20  # routes that a policy is tested on


def order(lines: dict[str, tuple[float, float]]) -> dict[str, bool]:
    """Whether each line is no worse than the one before: by disengagements on a route, then by metres."""
    names = list(lines)
    claims = {}
    for worse, better in pairwise(names):
        (much, near), (few, far) = lines[worse], lines[better]
        strictly = worse in ("random", "zero")
        ahead = (few, -far) < (much, -near) if strictly else (few, -far) <= (much, -near)
        sign = "<" if strictly else "<="
        claims[f"{worse} {sign} {better}: {much:.2f} disengagements on a route, then {few:.2f}"] = ahead
    return claims


@functools.cache
def trained(scale: Scale) -> dict[str, Learned]:
    """Both policies that learn, [S] each."""

    def line(seed: int, name: str) -> Learned:
        run = learn(scale, seed, name)
        return table_row(run.metrics, run.evaluate(TESTS, seed=1_000 + seed))

    lines = {name: [line(seed, name) for seed in range(scale.seeds)] for name in ("pixels", "vae")}
    learned = {name: Learned(*np.array(each).T) for name, each in lines.items()}
    for name, row in learned.items():
        print(f"  {name}: {dict(zip(row._fields, (x.round(2).tolist() for x in row), strict=True))}")
    return learned


def table(scale: Scale = SHORT) -> Finding:
    """Table I: random, zero, pixels, pixels through an auto-encoder."""
    lines = {name: on_a_route(drive(name, TESTS)) for name in ("random", "zero")}
    lines |= {name: (row.per_route.mean(), row.distance.mean()) for name, row in trained(scale).items()}
    said = [f"{name} {lines[name][0]:.2f}" for name in ("random", "zero")]
    said += [f"{name} {in_words(row.per_route, 2)}" for name, row in trained(scale).items()]
    where = f"{scale.width} x {scale.height} pixels, at most {scale.driving:,} steps, {counted(scale.seeds)}"
    figure = (
        f"disengagements on 250 m: {', '.join(said)}; episodes until solved: {until_solved(trained(scale))}"
    )
    return Finding(order(lines), f"{figure} ({where})")


def until_solved(learned: dict[str, Learned]) -> str:
    """Mean episodes of training until a route was driven, in words; a seed that never did counts with all it had."""
    said = [
        f"{name} {'' if row.solved.all() else 'more than '}{in_words(row.episodes, 0)}"
        for name, row in learned.items()
    ]
    return ", ".join(said)


def in_words(values: np.ndarray, digits: int) -> str:
    """The mean over seeds; of several with its 95 % interval, and each seed's own."""
    mean = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return mean
    low, high = interval(values)
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}] ({each})"


def sooner(scale: Scale = LONG) -> Finding:
    """Episodes until a route is driven without a disengagement, with and without an auto-encoder."""
    found, learned = encoder(scale), trained(scale)
    few, many = learned["vae"], learned["pixels"]
    claims = dict(found.claims) | {
        "every seed with an auto-encoder drives a route": bool(few.solved.all()),
        f"and after fewer episodes: {few.episodes.tolist()} beside {many.episodes.tolist()}": few.episodes.mean()
        < many.episodes.mean(),
    }
    said = f"{found.figure}; episodes until solved: {until_solved(learned)} ({counted(scale.seeds)})"
    return Finding(claims, said)


def counted(seeds: int) -> str:
    """So many seeds, in words."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


if __name__ == "__main__":
    main(
        {"D7": table, "D8": encoder, "D9": roads, "D10": columns},
        long={"D7": lambda: table(LONG), "D8": sooner},
    )
