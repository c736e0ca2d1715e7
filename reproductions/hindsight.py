"""Hindsight: goals as inputs (E1), its four strategies (E2 to E5), any algorithm with a replay (E6)."""

from typing import Any

import numpy as np

import polyak
from reproductions.finding import Check, Finding, main, train

SEEDS, BITS = 3, 20
LENGTHS = {10: 60_000, 20: 120_000, 30: 300_000, 40: 600_000, 50: 1_000_000}  # steps by bits
STRATEGIES = ("future", "final", "episode", "random")
FLIPPING = {
    "gamma": 0.98,
    "lr": 1e-3,
    "hidden": (256,),
    "tau": 0.05,
    "period": 1,
    "epsilon": 0.2,
    "epsilon_end": 0.2,
    "data.clip": None,
    "data.capacity": 200_000,
    "data.batch_size": 128,
    "data.warmup": 1_280,
    "data.steps": 4,
    "data.updates": 4,
}
REACHING = {
    "gamma": 0.95,
    "hidden": (64, 64),
    "data.capacity": 100_000,
    "data.batch_size": 128,
    "data.warmup": 1_600,
    "data.steps": 4,
    "data.updates": 32,
}


def flipped(
    her: str | None, steps: int = 120_000, bits: int = BITS, seeds: int = SEEDS, **more: Any
) -> polyak.Run:
    """DQN on so many bits, evaluated six times on the way."""
    return train(
        "dqn",
        "jax:BitFlip",
        steps=steps,
        seeds=seeds,
        num_envs=16,
        her=her,
        env_fields={"n": bits, **more.pop("env_fields", {})},
        config=FLIPPING | {"data.warmup": 64 * bits},
        preset=False,
        eval_every=steps // 6,
        eval_episodes=100,
        **more,
    )


def reached(algorithm: str, her: str | None, steps: int = 20_000, seeds: int = 1) -> polyak.Run:
    """An algorithm for continuous actions on Reach, evaluated five times on the way."""
    return train(
        algorithm,
        "jax:Reach",
        steps=steps,
        seeds=seeds,
        num_envs=8,
        her=her,
        config=REACHING,
        preset=False,
        eval_every=steps // 5,
        eval_episodes=50,
    )


def curves(run: polyak.Run) -> np.ndarray:
    """[S, K] success at each evaluation."""
    by_seed: dict[int, list[float]] = {}
    for line in run.metrics:
        if "eval/success" in line:
            by_seed.setdefault(line["seed"], []).append(float(line["eval/success"]))
    return np.array([by_seed[seed] for seed in sorted(by_seed)])


def shown(values: np.ndarray) -> str:
    """A mean, and each seed."""
    return f"{values.mean():.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def with_and_without(strategy: str, steps: int = 120_000) -> Check:
    """Bit flipping with one strategy and without hindsight."""

    def check() -> Finding:
        found = curves(flipped(strategy, steps))[:, -1]
        plain = curves(flipped(None, steps))[:, -1]
        claims = {
            f"with {strategy} every seed succeeds in more than 95 % of episodes": bool((found > 0.95).all()),
            "without hindsight no seed succeeds in more than 2 %": bool((plain <= 0.02).all()),
        }
        return Finding(
            claims,
            f"success on {BITS} bits {shown(found)} with {strategy}, {shown(plain)} without; {SEEDS} seeds, "
            f"{steps:,} steps",
        )

    return check


def lengths() -> Finding:
    """Bit flipping with and without hindsight, from few bits to many, with more steps for more bits."""
    claims, said = {}, []
    for bits, steps in LENGTHS.items():
        found, plain = (curves(flipped(her, steps, bits))[:, -1] for her in ("future", None))
        print(f"  {bits} bits, {steps:,} steps: {shown(found)} with, {shown(plain)} without")
        claims[f"{bits} bits: at least 95 % with future (found {found.mean():.2f})"] = found.mean() >= 0.95
        if bits > 13:
            claims[f"{bits} bits: near 0 without (found {plain.mean():.2f})"] = plain.mean() <= 0.02
        said.append(f"{bits}: {found.mean():.2f}, {plain.mean():.2f}")
    return Finding(claims, f"success by bits, with and without; {SEEDS} seeds each: {'; '.join(said)}")


def held_out() -> Finding:
    """Goals that were never asked for are reached; and every row that is stored has its goal."""
    run = flipped(
        "future",
        env_fields={"goals": "training"},
        eval_env_fields={"goals": "held_out"},
    )
    success = curves(run)[:, -1]
    from polyak.envs.find import find

    world = find("jax:BitFlip", {"n": BITS, "goals": "training"}, ())
    other = find("jax:BitFlip", {"n": BITS, "goals": "held_out"}, ())
    goals = [drawn_goals(env) for env in (world, other)]
    common = len(goals[0] & goals[1])
    claims = {
        "no held-out goal is among those of training": common == 0 and min(map(len, goals)) > 100,
        "every seed reaches more than 95 % of the held-out goals": bool((success > 0.95).all()),
        "an observation, and so every stored row, has its goal": "desired_goal" in world.spec.obs,
    }
    return Finding(
        claims, f"success on held-out goals of {BITS} bits {shown(success)}; {SEEDS} seeds, 120,000 steps"
    )


def drawn_goals(env: Any, count: int = 2_000) -> set[bytes]:
    """The goals of so many episodes."""
    import jax

    _, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), count))
    return {goal.tobytes() for goal in np.asarray(obs["desired_goal"])}


def ranked(long: bool = False) -> Finding:
    """The strategies by the area under their curves of success."""
    seeds = 10 if long else SEEDS
    areas: dict[str, np.ndarray] = {}
    for strategy in STRATEGIES:
        areas[strategy] = curves(flipped(strategy, seeds=seeds)).mean(axis=1)
        print(f"  bit flipping, {strategy}: area {shown(areas[strategy])}")
    claims = {
        "random is last on bit flipping": all(
            areas["random"].mean() < areas[name].mean() for name in STRATEGIES[:3]
        )
    }
    said = ", ".join(
        f"{name} {shown(area)}" for name, area in sorted(areas.items(), key=lambda x: -x[1].mean())
    )
    if long:
        reach = {name: curves(reached("ddpg", name, 40_000, seeds)).mean(axis=1) for name in STRATEGIES}
        claims["random is last on Reach"] = all(
            reach["random"].mean() < reach[name].mean() for name in STRATEGIES[:3]
        )
        said += "; Reach " + ", ".join(f"{name} {shown(area)}" for name, area in reach.items())
    return Finding(claims, f"areas under the curves of success, {seeds} seeds: {said}")


def any_algorithm(long: bool = False) -> Finding:
    """One flag: with it each algorithm learns what it does not without."""
    seeds, steps = (5, 40_000) if long else (1, 20_000)
    claims, said = {}, []
    with_her = curves(flipped("future", seeds=seeds))[:, -1]
    claims["dqn flips 20 bits (> 0.95)"] = bool((with_her > 0.95).all())
    said.append(f"dqn {shown(with_her)}")
    for name in ("ddpg", "td3", "sac", "naf"):
        success = curves(reached(name, "future", steps, seeds))[:, -1]
        plain = curves(reached(name, None, steps, seeds))[:, -1] if long else None
        claims[f"{name} reaches more than 90 %"] = bool((success > 0.9).all())
        said.append(f"{name} {shown(success)}" + ("" if plain is None else f" (without: {shown(plain)})"))
    return Finding(claims, f"success with --her future, {seeds} seeds: {', '.join(said)}")


if __name__ == "__main__":
    main(
        {
            "E1": held_out,
            "E2": with_and_without("future"),
            "E3": with_and_without("final"),
            "E4": with_and_without("episode", 300_000),
            "E5": ranked,
            "E6": any_algorithm,
        },
        long={"E2": lengths, "E5": lambda: ranked(long=True), "E6": lambda: any_algorithm(long=True)},
    )
