"""Experience replay: draws are uniform and DQN needs it (C4), and n-step windows are what they should be (D13)."""

from collections.abc import Iterator

import numpy as np
from scipy import stats

from reproductions.finding import Finding, main, train
from reproductions.stream import Log, Seen, read

NUM_ENVS, STEPS, SLOTS = 4, 16, 64  # rows of time: those of a rollout, and those that the ring holds
SEEDS, SOLVED = 5, 475.0


def write_down(rollouts: int, updates: int, n_step: int = 1) -> Log:
    """All that replay was given, and all that it gave."""
    data = {"capacity": SLOTS * NUM_ENVS, "batch_size": 64, "warmup": 0, "steps": STEPS}
    config = {f"data.{name}": value for name, value in data.items()}
    config |= {"data.updates": updates, "data.n_step": n_step}
    steps = rollouts * STEPS * NUM_ENVS
    run = train(
        "reproductions.stream:algorithm",
        "reproductions.stream:Patterns",
        steps=steps,
        num_envs=NUM_ENVS,
        config=config,
    )
    return read(run)


# ---- C4


def uniform_and_needed() -> Finding:
    """Chi-square over every slot and environment, and DQN with a replay that holds one rollout only."""
    p_values, claims = uniformity()
    claims["every p-value is between 1e-4 and 1 - 1e-4"] = bool(
        1e-4 < p_values.min() <= p_values.max() < 1 - 1e-4
    )
    with_replay = last_returns(capacity=50_000)
    without = last_returns(capacity=4)  # one rollout
    for name, means in (("with replay", with_replay), ("without", without)):
        print(f"  {name}: " + ", ".join(f"{mean:.0f}" for mean in means))
    claims[f"with replay at least 4 of {SEEDS} seeds of DQN solve CartPole"] = (
        with_replay >= SOLVED
    ).sum() >= 4
    half = with_replay.mean() / 2
    claims[f"without it at least 4 return less than half of that ({half:.0f})"] = (without < half).sum() >= 4
    return Finding(
        claims,
        f"p-values {p_values.min():.3f} to {p_values.max():.3f} over {len(p_values)} contents of the ring; median "
        f"seed of DQN {np.median(with_replay):.0f} with replay, {np.median(without):.0f} without ({SEEDS} seeds)",
    )


def uniformity() -> tuple[np.ndarray, dict[str, bool]]:
    """A p-value for each content of the ring: while it fills, when it is full, and after it has wrapped."""
    log = write_down(rollouts=7, updates=200)
    p_values, inside = [], True
    for head in np.unique(log.head):
        rows, envs = (place[log.head == head].ravel() for place in (log.row, log.env))
        oldest = max(0, head - SLOTS)
        inside &= bool(((rows >= oldest) & (rows < head) & (envs >= 0)).all())
        cells = (np.clip(rows, oldest, head - 1) - oldest) * NUM_ENVS + envs
        counts = np.bincount(cells[cells >= 0], minlength=(head - oldest) * NUM_ENVS)
        p_values.append(stats.chisquare(counts).pvalue)
        print(
            f"  rows {oldest} to {head - 1}: {counts.sum():,} draws of {len(counts)}, p = {p_values[-1]:.3f}"
        )
    return np.array(p_values), {"only rows that the ring holds are drawn": inside}


def last_returns(capacity: int) -> np.ndarray:
    """The mean returns of five seeds of DQN whose replay holds so many transitions."""
    config = {"data.capacity": capacity, "data.warmup": min(capacity, 1_000)}
    run = train("dqn", "jax:CartPole-v1", steps=50_000, seeds=SEEDS, config=config)
    return run.evaluate(100).returns.mean(axis=1)


# ---- D13


def windows() -> Finding:
    """n-step sums beside a loop in float64, over episodes of 1 to 5 steps that end in all ways."""
    claims, worst, checked, shortened = {}, 0.0, 0, 0
    for n_step in (1, 2, 3, 8):
        log = write_down(rollouts=6, updates=8, n_step=n_step)
        claims[f"n = {n_step}: every drawn row was collected"] = bool((log.row >= 0).all())
        same, error, short = True, 0.0, 0
        for drawn, wanted, rows in each_window(log, n_step):
            same &= drawn.next_obs.tobytes() == wanted.next_obs.tobytes()
            same &= drawn.terminated == wanted.terminated and drawn.truncated == wanted.truncated
            of_reward = abs(drawn.reward - wanted.reward) / max(1.0, abs(wanted.reward))
            error = np.max([error, of_reward, abs(drawn.discount - wanted.discount)])
            short += rows < n_step
            checked += 1
        claims[f"n = {n_step}: windows end where they should ({short} are shorter than n)"] = same
        claims[f"n = {n_step}: rewards and discounts within 1e-6 (found {error:.1e})"] = error < 1e-6
        if n_step == 1:
            claims["n = 1 is the one-step transition bit for bit"] = one_step(log)
        worst, shortened = np.maximum(worst, error), shortened + short
    claims["some windows were cut short"] = shortened > 0
    return Finding(
        claims, f"largest error {worst:.1e} over {checked:,} windows, {shortened:,} of them cut short"
    )


def each_window(log: Log, n_step: int) -> Iterator[tuple[Seen, Seen, int]]:
    """Of each drawn row: the row, the one that a loop over the stream makes, and how many steps it spans."""
    for place in np.ndindex(log.row.shape):
        drawn = Seen(*(field[place] for field in log.drawn))
        yield drawn, *window(log.stream, log.row[place], log.env[place], log.head[place[0]], n_step)


def window(stream: Seen, row: int, env: int, head: int, n_step: int, gamma: float = 0.99) -> tuple[Seen, int]:
    """Sum rewards until n steps, the end of the episode, or the newest row of the ring."""
    reward, discount = 0.0, 1.0
    for step in range(n_step):
        now = Seen(*(field[row + step, env] for field in stream))
        reward += discount * float(now.reward)
        discount *= gamma
        if now.terminated or now.truncated or row + step + 1 == head:
            break
    return now._replace(
        obs=stream.obs[row, env], reward=reward, discount=0.0 if now.terminated else discount
    ), step + 1


def one_step(log: Log) -> bool:
    """Whether every drawn row has the bits of the row that was collected, and one step's discount."""
    collected = Seen(*(field[log.row, log.env] for field in log.stream))
    return all(a.tobytes() == b.tobytes() for a, b in zip(log.drawn, collected, strict=True))


if __name__ == "__main__":
    main({"C4": uniform_and_needed, "D13": windows})
