"""Look at every rollout of environments on the host before anything is learned from it, and say what is found."""

from collections.abc import Sequence

import jax
import numpy as np

from polyak.drivers.validate import NOTHING, Look, error_for, limits, look_closely, outside_note
from polyak.interface import Space, Spec, Transition

SMALL = 65_536  # entries of which bounds are kept one by one


class Inspection:
    """Raises where a rollout [T, L, ...] holds what no environment may give, and notes what it should not give.

    `rollout` has the shapes of each; rows, environments (the first of them has the number `first`) and seeds are
    named as the whole run counts them.
    """

    def __init__(self, spec: Spec, seeds: Sequence[int], rollout: Transition, strict: bool, first: int):
        self.spec, self.seeds, self.strict, self.first = spec, seeds, strict, first
        self.rows, self.count = rollout.reward.shape
        self.sound = Sound(spec, rollout)

    def __call__(self, rollout: Transition, iteration: int, began: bool) -> str | None:
        """A line about the first observation outside its bounds; EnvironmentFault for what must not be.

        began  an episode began in this rollout or the one before: else every observation was looked at as the next
               one of another row
        """
        if self.sound(rollout, began):
            return None
        seen = rollout if began else rollout._replace(obs=rollout.next_obs)
        found, before = look_closely(self.spec, seen, np, self.strict), iteration * self.rows
        row, slot, field = found.fault.tolist()
        if row != NOTHING:
            seed, env = divmod(slot, self.spec.num_envs)
            values = [rollout.action, rollout.reward, *jax.tree.leaves(rollout.next_obs)][field][row, slot]
            value = np.array2string(values, threshold=8)
            raise error_for(
                self.spec, before + row, self.first + env, field, self.seeds[seed], value, self.strict
            )
        return self._outside(found, before) if found.count else None

    def _outside(self, found: Look, before: int) -> str:
        """The line about what lies outside its bounds, after so many rows."""
        row, slot, *where = found.place.tolist()
        seed, env = divmod(slot, self.spec.num_envs)
        place = np.array([before + row, self.first + env, *where])
        rows = (before + self.rows) * self.count
        return outside_note(self.spec, found._replace(place=place), self.seeds[seed], rows)


class Sound:
    """Whether all of a rollout on the host is as it must be, as `look` has it, in few and cheap calls of NumPy.

    Between two updates nothing of it is in the processor's caches: a call takes several times as long as in a loop.
    """

    def __init__(self, spec: Spec, rollout: Transition):
        """For rollouts in the shapes of this one."""
        parts = jax.tree.leaves(spec.obs)
        spaces = [*parts, None, None, *parts]  # obs, action, reward, next_obs
        given = jax.tree.leaves(rollout)[: len(spaces)]
        self.tests = [
            (leaf, *test)
            for leaf, (space, x) in enumerate(zip(spaces, given, strict=True))
            for test in tests(space, x.shape, np.dtype(x.dtype))
        ]
        self.after = [test for test in self.tests if test[0] >= len(parts)]
        self.flat = parts == [spec.obs]  # then the first fields of a rollout are its leaves

    def __call__(self, rollout: Transition, began: bool) -> bool:
        """With `began` the first observation of each row is looked at too; else it was as the next one of another."""
        leaves, count = rollout if self.flat else jax.tree.leaves(rollout), np.count_nonzero
        for leaf, test, limit in self.tests if began else self.after:
            x = leaves[leaf]
            if count(test(x, *limit)) != x.size:
                return False
        return True


def tests(space: Space | None, shape: tuple[int, ...], dtype: np.dtype) -> list[tuple[np.ufunc, tuple]]:
    """Functions that are true of every entry that is as it must be, each with what it takes beside the entries."""
    real = np.issubdtype(dtype, np.floating)
    bounds = limits(space, dtype) if space else None
    if real and (bounds is None or all((np.abs(bound) == np.finfo(dtype).max).all() for bound in bounds)):
        return [(np.isfinite, ())]
    if bounds is None:
        return []
    if np.prod(shape) <= SMALL:  # NumPy takes a detour where shapes differ
        bounds = [np.broadcast_to(bound, shape).copy() for bound in bounds]
    return [(test, (bound,)) for test, bound in zip((np.greater_equal, np.less_equal), bounds, strict=True)]
