"""The general view of lecture 4: collect, move targets and regress are three processes at three speeds (C10).

Online Q-learning, DQN and fitted Q-iteration are three settings of one function, polyak's `learn` with DQN's update.
Each is followed for a hundred updates by an independent loop in float64, which holds its own list of transitions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.algorithms import dqn, q_learning
from polyak.drivers.learn import initial_row, learn
from polyak.interface import Discrete, OnPolicy, Replay, Spec, Transition
from polyak.parts import replay
from reproductions.finding import Finding, main

CELLS, ACTIONS, GAMMA, LR, UPDATES = 6, 3, 0.9, 0.02, 100
SPEC = Spec(Discrete(CELLS), Discrete(ACTIONS))
# N, updates between two moves of the target (0: it moves with every update); rows between two regressions, and how many
SETTINGS = {
    "online Q-learning": (0, Replay(capacity=1, batch_size=1, warmup=0, steps=1, updates=1)),
    "DQN": (10, Replay(capacity=40, batch_size=8, warmup=8, steps=1, updates=1)),
    "fitted Q-iteration": (25, Replay(capacity=200, batch_size=200, warmup=0, steps=200, updates=100)),
}
Row = tuple[int, int, float, int, bool]  # s, a, r, s', whether it terminated


def three_settings() -> Finding:
    """The largest difference between each setting and its loop; and Q-learning's own file beside the first."""
    claims, errors = {}, {}
    for name, (period, data) in SETTINGS.items():
        stream = transitions(data.steps * (data.warmup_rollouts(1) + UPDATES // data.updates))
        first, found, draws = by_learn(period, data, stream)
        wanted = loop(first, draws, period)
        errors[name] = float(np.abs(found - wanted).max())
        moved = float(np.abs(wanted - first).max())
        claims[
            f"{name}: equal to its loop after {len(draws)} updates within 1e-4 (found {errors[name]:.1e}; "
            f"moved by {moved:.2f})"
        ] = errors[name] < 1e-4 < moved
    stream = transitions(UPDATES)
    first, found = by_q_learning(stream)
    alone = float(np.abs(found - loop(first, [[row] for row in stream], 0)).max())
    claims[f"q_learning.py is the first setting within 1e-4 (found {alone:.1e})"] = alone < 1e-4
    listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return Finding(claims, f"largest difference from an independent loop over {UPDATES} updates: {listed}")


def loop(q: np.ndarray, draws: list[list[Row]], period: int) -> np.ndarray:
    """Q-learning's regression in float64, with Adam, towards a target that is copied every `period` updates."""
    q, target, m, v = q.copy(), q.copy(), np.zeros_like(q), np.zeros_like(q)
    for update, rows in enumerate(draws, 1):
        gradient = np.zeros_like(q)
        for s, a, r, after, end in rows:
            y = r + (0.0 if end else GAMMA * (target if period else q)[after].max())
            gradient[s, a] += (q[s, a] - y) / len(rows)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        q = q - LR * (m / (1 - 0.9**update)) / (np.sqrt(v / (1 - 0.999**update)) + 1e-8)
        if period and update % period == 0:
            target = q.copy()
    return q


def transitions(count: int) -> list[Row]:
    """A stream of random transitions, of which no two have the same reward."""
    random = np.random.default_rng(count)
    rewards = random.permutation(count) / count - 0.3
    cell = lambda: int(random.integers(CELLS))  # noqa: E731
    return [
        (cell(), int(random.integers(ACTIONS)), float(np.float32(r)), cell(), random.random() < 0.1)
        for r in rewards
    ]


def rollout_of(rows: list[Row]) -> Transition:
    """Rows as a rollout [T, 1]."""
    s, a, r, after, end = (np.array(x)[:, None] for x in zip(*rows, strict=True))
    obs, action, next_obs = (jnp.asarray(x, jnp.int32) for x in (s, a, after))
    ends = jnp.asarray(end, bool)
    return Transition(obs, action, jnp.asarray(r, jnp.float32), next_obs, ends, jnp.zeros_like(ends))


def by_learn(period: int, data: Replay, stream: list[Row]) -> tuple[np.ndarray, np.ndarray, list[list[Row]]]:
    """The table before and after, and which rows of the stream each update was given."""
    cfg = dqn.Config(
        **{"gamma": GAMMA, "lr": LR, "network": "linear", "huber": 0.0, "max_norm": 1e6},
        **{"target": period > 0, "tau": 1.0, "period": max(period, 1), "data": data},
    )
    state = dqn.init(cfg, SPEC, jax.random.key(0))
    first = np.asarray(state.q.weight, np.float64)
    _, buffer, _ = initial_row(dqn.algorithm, cfg, SPEC, state)

    def learned(state: Any, buffer: Any, rows: Transition, key: jax.Array, warm: bool) -> tuple:
        return learn(dqn.algorithm, cfg, SPEC, state, buffer, rows, key, warm)

    step = jax.jit(learned, static_argnames="warm")
    number, draws = {row[2]: index for index, row in enumerate(stream)}, []
    for iteration in range(len(stream) // data.steps):
        seen, warm = (iteration + 1) * data.steps, iteration < data.warmup_rollouts(1)
        rows = rollout_of(stream[seen - data.steps : seen])
        key = jax.random.key(iteration)
        if not warm:
            held = replay.add(buffer, rows)
            for index in range(data.updates):
                # the same draw as `learn` makes; what is in the buffer is taken from the list
                key_draw = jax.random.split(jax.random.fold_in(key, index))[0]
                reward = np.asarray(replay.sample(held, key_draw, data, GAMMA).reward)
                which = [number[float(r)] for r in reward]
                assert max(which) < seen, "a row from the future was drawn"
                assert min(which) >= seen - data.capacity, "a row was drawn that the buffer had given up"
                draws.append([stream[index] for index in which])
        state, buffer, _ = step(state, buffer, rows, key, warm=warm)
    return first, np.asarray(state.q.weight, np.float64), draws


def by_q_learning(stream: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The same table from the file that has neither buffer nor target."""
    cfg = q_learning.Config(gamma=GAMMA, lr=LR, network="linear", data=OnPolicy(steps=1))
    state: Any = q_learning.init(cfg, SPEC, jax.random.key(0))
    first = np.asarray(state.q.weight, np.float64)

    @jax.jit
    def step(state: Any, rows: Transition) -> Any:
        return learn(q_learning.algorithm, cfg, SPEC, state, (), rows, jax.random.key(0))[0]

    for row in stream:
        state = step(state, rollout_of([row]))
    return first, np.asarray(state.q.weight, np.float64)


if __name__ == "__main__":
    main({"C10": three_settings})
