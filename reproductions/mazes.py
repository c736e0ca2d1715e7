"""Dyna-Q in the mazes of Sutton & Barto 2018, chapter 8 (G6), and what is known of these worlds (H6).

Figure 8.2: steps to the goal in the first 50 episodes of the Dyna maze, mean of 30 runs that train side by side, with
0, 5 and 50 planning steps. Figures 8.4 and 8.5: goals reached in the mazes that change, by Dyna-Q and Dyna-Q+.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import dyna_q
from polyak.interface import Array, Spec, Transition
from polyak.pytree import Record, pytree
from reproductions.finding import Finding, main, train
from reproductions.hindsight import flipped
from reproductions.reinforce import BEST, CORRIDOR, learned

EPISODES, SEEDS, OPTIMUM = 50, 30, 14
PICTURE, CHANGING = Path("runs") / "dyna_maze.png", Path("runs") / "changing_mazes.png"
STEPS = {0: 40_000, 5: 20_000, 50: 12_000}  # real steps: 50 episodes of the slowest seed, and some more

BINS, EVERY = 300, 20  # goals are counted in so many parts of the run, of so many steps each
# mazes that change: the bonus of Dyna-Q+, real steps, and the step of the change
CHANGES = {"BlockingMaze-v0": (1e-4, 3_000, 1_000), "ShortcutMaze-v0": (1e-3, 6_000, 3_000)}

# worlds that stay as they are, the steps of their shortest ways, and how Dyna-Q is trained there
SHORTEST: list[tuple[str, int, dict[str, Any]]] = [
    ("jax:DynaMaze-v0", OPTIMUM, {"seeds": 3}),
    ("CliffWalking-v1", 13, {"steps": 4_000, "env_fields": {"max_episode_steps": 200}}),
    ("FrozenLake-v1", 6, {"steps": 4_000, "env_fields": {"is_slippery": False}}),
]
BITS, BIT_STEPS, BIT_EPISODES = 8, 20_000, 1_000


@pytree
class Recorded(Record):
    """Dyna-Q's state, how many steps each of the first episodes took, and what was earned when."""

    inner: dyna_q.State
    lengths: Array  # [EPISODES] int32
    episode: Array
    earned: Array  # [BINS] rewards of EVERY steps each


def init(cfg: Any, spec: Spec, key: Array) -> Recorded:
    """No episode has begun."""
    lengths, episode = jnp.zeros(EPISODES, jnp.int32), jnp.zeros((), jnp.int32)
    return Recorded(dyna_q.init(cfg, spec, key), lengths, episode, jnp.zeros(BINS))


def update(cfg: Any, spec: Spec, state: Recorded, batch: Any, key: Array) -> Any:
    """Dyna-Q's own."""
    made = dyna_q.update(cfg, spec, state.inner, batch, key)
    return made._replace(state=state.replace(inner=made.state))


def observe(cfg: Any, spec: Spec, state: Recorded, rollout: Transition) -> Recorded:
    """Count a step and its reward; beyond the last episode, or the last part, nothing is written."""
    lengths = state.lengths.at[state.episode].add(1, mode="drop")
    earned = state.earned.at[state.inner.steps // EVERY].add(rollout.reward.sum(), mode="drop")
    episode = state.episode + rollout.last.sum(dtype=jnp.int32)
    return state.replace(lengths=lengths, episode=episode, earned=earned)


recorded = dyna_q.algorithm._replace(
    init=init, actor=lambda state: state.inner.q, update=update, observe=observe
)


def lengths(planning: int) -> np.ndarray:
    """Steps of each episode [SEEDS, EPISODES] of Dyna-Q with so many planning steps."""
    run = train(
        "reproductions.mazes:recorded",
        "jax:DynaMaze-v0",
        steps=STEPS[planning],
        seeds=SEEDS,
        eval_every=0,
        config={"planning": planning},
    )
    state = run.state()
    assert int(np.asarray(state.episode).min()) >= EPISODES, "the run is too short for its episodes"
    return np.asarray(state.lengths)


def reaches(means: np.ndarray, near: float) -> int:
    """Number of the first episode from which on the mean length stays near the optimum, counted from 1.

    near  steps; the mean of three episodes in a row is compared, since a policy that explores is noisy
    """
    smooth = np.convolve(means, np.ones(3) / 3, mode="valid")
    return int(np.flatnonzero(smooth > near)[-1]) + 2 if (smooth > near).any() else 1


def figure_8_2() -> Finding:
    """Steps per episode for n = 0, 5 and 50."""
    found = {planning: lengths(planning) for planning in STEPS}
    means = {planning: each.mean(axis=0) for planning, each in found.items()}
    draw_figure(means)
    # with epsilon 0.1 the best policy itself takes about 16 steps: a fifth more than that counts as near
    near = 1.2 * exploring_optimum()
    first = {planning: reaches(each, near) for planning, each in means.items()}
    third = found[50][:, 2]
    half = 1.96 * third.std(ddof=1) / np.sqrt(SEEDS)
    claims = {
        f"n = 50: near the optimum ({near:.1f} steps) by episode 3 or 4 (found {first[50]})": first[50] <= 4,
        f"n = 5: by about 5 (found {first[5]})": 3 <= first[5] <= 9,
        f"n = 0: by about 25 (found {first[0]})": 18 <= first[0] <= 35,
    }
    said = ", ".join(f"n = {planning}: episode {episode}" for planning, episode in first.items())
    return Finding(
        claims,
        f"near {OPTIMUM} steps from: {said}; third episode of n = 50 {third.mean():.1f} +- {half:.1f} steps, "
        f"{SEEDS} seeds",
    )


def exploring_optimum(epsilon: float = 0.1) -> float:
    """Expected steps of the shortest way for one who takes a random move with probability epsilon, from S.

    Value iteration in float64 on the drawing, with unit costs.
    """
    from polyak.envs.worlds.mazes import DYNA, place, successors

    after, goal = successors(DYNA), place(DYNA, "G")
    steps = np.zeros(len(after))
    for _ in range(2_000):
        of_move = 1 + steps[after]
        steps = (1 - epsilon) * of_move.min(axis=1) + epsilon * of_move.mean(axis=1)
        steps[goal] = 0
    return float(steps[place(DYNA, "S")])


def draw_figure(means: dict[int, np.ndarray]) -> None:
    """The book's figure, beside the runs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    for planning, each in means.items():
        axes.plot(np.arange(2, EPISODES + 1), each[1:], label=f"{planning} planning steps")
    axes.set(xlabel="episode", ylabel="steps per episode", ylim=(0, 800), title="Dyna-Q in the Dyna maze")
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    plt.close(figure)


def goals(name: str, kappa: float) -> np.ndarray:
    """Goals reached by the end of each part of an experiment, mean of ten seeds."""
    steps = CHANGES[name][1]
    run = train(
        "reproductions.mazes:recorded",
        f"jax:{name}",
        steps=steps,
        seeds=10,
        eval_every=0,
        config={"kappa": kappa, "planning": 50, "lr": 0.5},
    )
    return np.asarray(run.state().earned).mean(axis=0).cumsum()[: steps // EVERY]


def draw_changes(found: dict[str, dict[str, np.ndarray]]) -> None:
    """The book's figures 8.4 and 8.5, beside the runs."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(10, 4), layout="constrained")
    for axes, (name, curves) in zip(panels, found.items(), strict=True):
        for label, each in curves.items():
            axes.plot(EVERY * np.arange(1, len(each) + 1), each, label=label)
        axes.axvline(CHANGES[name][2], color="grey", linestyle=":", label="the maze changes")
        axes.set(xlabel="steps", ylabel="goals reached", title=name)
        axes.legend()
    CHANGING.parent.mkdir(exist_ok=True)
    figure.savefig(CHANGING)
    plt.close(figure)


def worlds() -> Finding:
    """Each world's optimum, which is known, is what was learned in it."""
    claims, said = {}, []
    for check in (shortest_ways, changes, corridor, bits):
        found, line = check()
        claims |= found
        said.append(line)
    return Finding(claims, "; ".join(said))


def shortest_ways() -> tuple[dict[str, bool], str]:
    """The shortest ways through gridworlds that stay as they are."""
    claims, said = {}, []
    for env, optimum, settings in SHORTEST:
        run = train("dyna_q", env, eval_episodes=1, **settings)
        length = polyak_length(run)
        name = env.removeprefix("jax:")
        claims[f"the greedy way of {name} has {optimum} steps (found {length:g})"] = length == optimum
        said.append(f"{name} {length:g} of {optimum} steps")
    return claims, ", ".join(said)


def changes() -> tuple[dict[str, bool], str]:
    """Mazes that change: who looks at what was not tried for long finds the new way."""
    claims, said, found = {}, [], {}
    for name, (kappa, *_) in CHANGES.items():
        found[name] = {"Dyna-Q": goals(name, 0.0), "Dyna-Q+": goals(name, kappa)}
        plain, plus = (each[-1] for each in found[name].values())
        claims[f"{name}: Dyna-Q+ reaches more goals than Dyna-Q ({plus:.0f} beside {plain:.0f})"] = (
            plus > plain
        )
        said.append(f"{name} {plus:.0f} goals with the bonus, {plain:.0f} without")
    draw_changes(found)
    return claims, ", ".join(said)


def corridor() -> tuple[dict[str, bool], str]:
    """The short corridor, whose best policy goes right with probability 2 - sqrt(2)."""
    right, _ = learned(*CORRIDOR["with a baseline"])
    near = abs(right.mean() - BEST) < 0.03
    return {f"corridor: p(right) is within 0.03 of {BEST:.3f} (found {right.mean():.3f})": bool(near)}, (
        f"corridor p(right) {right.mean():.3f} of {BEST:.3f}"
    )


def bits() -> tuple[dict[str, bool], str]:
    """Bit flipping: the shortest way flips each bit that differs, once; where none does, one there and back."""
    run = flipped("future", steps=BIT_STEPS, bits=BITS, seeds=1)
    score = run.evaluate(BIT_EPISODES)
    optimum = BITS / 2 + 2 * 0.5**BITS
    error = np.sqrt(BITS / 4 / BIT_EPISODES)  # standard error of the number of bits that differ
    length, success = float(score.summary()["mean_length"]), float(score.summary()["success"])
    claims = {
        f"{BITS} bits: every episode reaches its goal (found {success:.3f})": success == 1.0,
        f"{BITS} bits: it takes {optimum:.2f} flips, within three standard errors (found {length:.2f})": (
            abs(length - optimum) < 3 * error
        ),
    }
    return claims, f"{BITS} bits {length:.2f} of {optimum:.2f} flips, success {success:.2f}"


def polyak_length(run: polyak.Run) -> float:
    """Mean length of an episode of the greedy policies."""
    return float(run.evaluate(episodes=1).summary()["mean_length"])


if __name__ == "__main__":
    main({"G6": figure_8_2, "H6": worlds})
