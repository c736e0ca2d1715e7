"""Hindsight: goals of replayed windows replaced by achieved ones (Andrychowicz et al. 2017, arXiv:1707.01495)."""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Goal, Hindsight, Replay, Transition, Tree
from polyak.parts.replay.draw import Windows
from polyak.parts.replay.episodes import Episodes, span
from polyak.parts.replay.ring import Ring
from polyak.parts.replay.window import Seen, n_step_batch
from polyak.pytree import Counter, select


def relabelled_batch(
    ring: Ring,
    episodes: Episodes,
    windows: Windows,
    goal: Goal,
    key: Array,
    data: Replay,
    hindsight: Hindsight,
    gamma: Array,
    seen: Seen,
) -> Batch:
    """The transitions [...] that begin at `windows` [...], a share of them as if another goal had been pursued.

    All rows of a window, and all windows of a sequence, get the same goal; then they are summed.
    """
    key_share, key_goal = jax.random.split(key)
    shape = windows.time.shape
    first = jax.tree.map(lambda x: x.reshape(shape[0], -1)[:, 0], windows)  # of each sequence
    achieved = goal.achieved(achieved_rows(ring, episodes, first, key_goal, hindsight.strategy))
    replaced = jax.random.bernoulli(key_share, hindsight.share, (shape[0],))

    length = windows.time.size // shape[0]
    each = jax.tree.map(lambda x: x.reshape(-1), windows)  # [M], a sequence's rows after one another
    achieved, replaced = jax.tree.map(lambda x: jnp.repeat(x, length, axis=0), (achieved, replaced))
    rows = gathered(ring, each, data.n_step)  # [n, M, ...]
    rows = relabelled(rows, achieved, replaced, goal)

    # each window is a ring of its own, of n slots
    alone = Ring(rows, Counter(jnp.int32(data.n_step)))
    whole = Windows(jnp.zeros_like(each.time), jnp.arange(each.time.size))
    batch = n_step_batch(alone, whole, gamma, data.n_step, data.clip, seen)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)


def achieved_rows(ring: Ring, episodes: Episodes, windows: Windows, key: Array, strategy: str) -> Tree:
    """Observations [B, ...] whose achieved goals stand in for those of windows [B] (sec. 4.5).

    final    the last one of the episode
    future   one of the same episode that was observed after the row, which counts as observed after itself
    episode  one of the same episode
    random   one of all that the ring holds, in any episode
    """
    begin, last = span(ring, episodes, windows)
    newest, env = ring.clock.value - 1, windows.env
    if strategy == "final":
        begin = last
    elif strategy == "future":
        begin = windows.time
    elif strategy == "random":
        key, key_env = jax.random.split(key)
        begin, last = jnp.maximum(newest + 1 - ring.slots, 0), newest
        env = jax.random.randint(key_env, env.shape, 0, ring.rows.reward.shape[1])
    time = jax.random.randint(key, windows.time.shape, begin, last + 1)
    return jax.tree.map(lambda x: x[time % ring.slots, env], ring.rows.next_obs)


def gathered(ring: Ring, windows: Windows, n_step: int) -> Transition:
    """The rows [n, M, ...] of windows [M]; one that would be newer than the newest is cut off before it."""
    time = windows.time + jnp.arange(n_step)[:, None]
    rows: Any = jax.tree.map(lambda x: x[time % ring.slots, windows.env], ring.rows)
    newest = time >= ring.clock.value - 1
    return rows._replace(truncated=rows.truncated | (newest & ~rows.terminated))


def relabelled(rows: Transition, achieved: Tree, replaced: Array, goal: Goal) -> Transition:
    """Rows [n, M, ...], those of the windows where `replaced` [M] is set as with the goals `achieved` [M, ...].

    A terminated row that the new goal does not end is truncated: the rows behind it are of another episode.
    """
    n, m = rows.reward.shape
    flat: Any = jax.tree.map(lambda x: x.reshape(n * m, *x.shape[2:]), rows)
    goals = jax.tree.map(lambda x: jnp.tile(x, (n, *(1,) * (x.ndim - 1))), achieved)
    obs, next_obs = goal.relabel(flat.obs, goals), goal.relabel(flat.next_obs, goals)
    reward, terminated = goal.reward(obs, next_obs, flat.terminated)
    new = flat._replace(
        obs=obs,
        next_obs=next_obs,
        reward=reward.astype(flat.reward.dtype),
        terminated=terminated,
        truncated=flat.last & ~terminated,
    )
    chosen = select(jnp.tile(replaced, n), new, flat)
    return jax.tree.map(lambda x: x.reshape(n, m, *x.shape[1:]), chosen)
