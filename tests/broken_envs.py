"""Small environments, each broken in one way, and one that is sound: what `check-env` must find, and what it must not.

`Sound` is a point that is pushed about. Hooks change one thing about it; `FAULTS` has a line for each fault: what is
wrong, the names of findings that say so, and what makes the environment.
"""

import copy
import random
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from polyak.envs.environment import Environment, Step
from polyak.interface import Box, Discrete, Spec
from polyak.pytree import pytree, static

REAL = spaces.Box(-5.0, 5.0, (3,), np.float32)
FREE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PUSH = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Sound(gymnasium.Env):
    """A point in three dimensions. Each hook is a function of the environment and of what it may change.

    begin, obs, reward, ends, result, act, noise, init   see where they are called
    """

    shared = np.zeros(3)  # for the one that keeps its state in the class

    def __init__(self, seen=REAL, action=PUSH, limit=40, **hooks):
        self.observation_space, self.action_space, self.limit = (
            copy.deepcopy(seen),
            copy.deepcopy(action),
            limit,
        )
        self.hooks, self.total, self.age, self.buffer = hooks, 0.0, 0, np.zeros(3, np.float32)
        self.hooked("init", None)

    def hooked(self, name, usual):
        return self.hooks[name](self, usual) if name in self.hooks else usual

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.total = 0, 0.0
        self.x = self.hooked("begin", self.np_random.uniform(-1, 1, 3))
        return self.hooked("first", (self.look(), {}))

    def look(self):
        return self.hooked("obs", self.x.astype(np.float32))

    def step(self, action):
        self.t, self.age = self.t + 1, self.age + 1
        a = self.hooked("act", np.resize(np.asarray(action, np.float64), 2))
        noise = self.hooked("noise", 0.1 * self.np_random.normal(size=3))
        self.x = np.clip(0.9 * self.x + 0.1 * np.array([a[0], a[1], a[0]]) + noise, -5, 5)
        self.x = self.hooked("moved", self.x)
        r = self.hooked("reward", float(-np.abs(self.x).sum()))
        ends = self.hooked("ends", (bool(np.abs(self.x).max() > 1.3), self.t >= self.limit))
        return self.hooked("result", (self.look(), r, *ends, {}))


def sound(**how):
    return lambda: Sound(**how)


class NoSeed(Sound):
    def reset(self):
        return super().reset()


class NoOptions(Sound):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class SeedOfZero(Sound):
    def reset(self, *, seed=0, options=None):
        return super().reset(seed=seed)


class OldSeed(Sound):
    def seed(self, seed=None):
        return [seed]


class NeedsSeed(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed + 1)


class ChangesAction(Sound):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class StartsAnew(Sound):
    """Puts itself back to the start when an episode ends, without calling reset."""

    def step(self, action):
        obs, r, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            obs = np.full(3, 1.0, np.float32)
        return obs, r, terminated, truncated, info


class UpsideDown(Sound):
    def __init__(self):
        super().__init__()
        self.observation_space.low = self.observation_space.high + 1


class DrawsWhenMade(Sound):
    def __init__(self):
        super().__init__()
        self.off = np.random.default_rng().normal()
        self.hooks["noise"] = lambda env, n: n + 0.01 * self.off


class NoActions(gymnasium.Env):
    observation_space = REAL


class Growing(Sound):
    @property
    def observation_space(self):
        return spaces.Box(-5.0, 5.0 + getattr(self, "age", 0), (3,), np.float32)

    @observation_space.setter
    def observation_space(self, space):
        pass


class InClass(Sound):
    """Keeps where it is in the class."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        Sound.shared[:] = self.x
        return obs, info

    def step(self, action):
        self.x = Sound.shared.copy()
        result = super().step(action)
        Sound.shared[:] = self.x
        return result


class ResetsItself(Sound):
    def step(self, action):
        obs, r, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            obs, info = self.reset()
        return obs, r, terminated, truncated, info


class Goals(gymnasium.Env):
    """A point with a goal, whose step pays something else than `compute_reward` says."""

    def __init__(self, wrong=0.5):
        box = spaces.Box(-2.0, 2.0, (2,), np.float32)
        names = "observation", "achieved_goal", "desired_goal"
        self.observation_space = spaces.Dict(dict.fromkeys(names, box))
        self.action_space, self.wrong = PUSH, wrong

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x, self.goal = (
            0,
            np.zeros(2, np.float32),
            self.np_random.uniform(-1, 1, 2).astype(np.float32),
        )
        return self.look(), {}

    def look(self):
        return {
            "observation": self.x.copy(),
            "achieved_goal": self.x.copy(),
            "desired_goal": self.goal.copy(),
        }

    def compute_reward(self, achieved, desired, info):
        return -np.linalg.norm(achieved - desired, axis=-1)

    def step(self, action):
        self.t += 1
        self.x = np.clip(self.x + 0.1 * action, -2, 2).astype(np.float32)
        reward = float(self.compute_reward(self.x, self.goal, {})) + self.wrong
        return self.look(), reward, False, self.t >= 30, {}


def raises(text):
    raise ValueError(text)


def seeds_numpy(env, x):
    np.random.seed(3)
    return x


class SeedsWithoutSeed(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0 if seed is None else seed)


class SameForAll(Sound):
    """A seed that is given is taken for 0; without one, the generator goes on."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else 0)


class Velocity(Sound):
    """Leaves the last episode's speed behind."""

    speed = 0.0

    def step(self, action):
        self.speed = 0.5 * self.speed + float(action[0])
        return super().step(np.array([np.clip(self.speed, -1, 1), action[1]], np.float32))


class Fixed(Sound):
    """Draws from a generator of its own that always begins in the same state."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=0)
        return super().reset()

    def __init__(self, **how):
        super().__init__(begin=lambda e, x: np.array([0.1, 0.2, 0.3]), noise=lambda e, n: 0 * n, **how)


def into_buffer(env, o):
    env.buffer[:] = o
    return env.buffer


class State(Sound):
    """Returns its own state, which is then the observer's too."""

    def look(self):
        self.x = self.x.astype(np.float32)
        return self.x

    def step(self, action):
        self.t += 1
        self.x *= 0.9
        self.x += 0.1 * float(action[0]) + 0.05 * self.np_random.normal(size=3)
        np.clip(self.x, -5, 5, out=self.x)
        return self.look(), float(-abs(self.x[0])), bool(np.abs(self.x).max() > 1.3), self.t >= 40, {}


class Borrows(Sound):
    """Returns a view of the state, and makes a new state at each step."""

    def look(self):
        self.x = self.x.astype(np.float32)
        return self.x[:]


class Cells(gymnasium.Env):
    """Seven cells in a row."""

    def __init__(self, n=7, seen=lambda cell: cell, act=lambda a: a, actions=None):
        self.observation_space, self.action_space = spaces.Discrete(7), actions or spaces.Discrete(2)
        self.seen, self.act = seen, act

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cell = 0, int(self.np_random.integers(1, 6))
        return self.seen(self.cell), {}

    def step(self, action):
        self.t += 1
        self.cell = int(np.clip(self.cell + 2 * int(self.act(action)) - 1, 0, 6))
        ended = self.cell in (0, 6)
        return self.seen(self.cell), float(self.cell == 6), ended, self.t >= 30 and not ended, {}


class Slow(Sound):
    def step(self, action):
        time.sleep(0.05)
        return super().step(action)


class Camera(Sound):
    """Sees noise as a picture."""

    def __init__(self, shape=(32, 32, 3), dtype=np.uint8, **how):
        top = 255 if dtype == np.uint8 else 255.0
        super().__init__(seen=spaces.Box(0, top, shape, dtype), **how)
        self.shown = np.zeros(shape, dtype)

    def look(self):
        picture = self.shown.copy()
        picture[:8, :8] = np.clip(128 + 20 * self.x[:1], 0, 255).astype(picture.dtype)
        return picture


def one_step_late(env, o):
    env.last, late = o, env.last if env.t else o
    return late.copy()


def only_limit(env, ends):
    return False, ends[1]


def doubled(env, o):
    return o * np.float32(2) ** env.t


def unseeded():
    return np.random.default_rng().normal(size=3)


SHORTER = EnvSpec(
    "Shorter-v0",
    entry_point=lambda: Sound(limit=15, ends=only_limit),
    max_episode_steps=30,
    disable_env_checker=True,
)


# ---- in JAX


@pytree
class InJax(Environment):
    """The sound one in JAX: a point in two dimensions that is pushed about."""

    how: str = static(default="")

    @property
    def spec(self):
        limit = None if self.how == "no limit" else 40
        return Spec(Box((2,), -5.0, 5.0), Box((1,), -1.0, 1.0), limit)

    def reset(self, key):
        x = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        x = x * 0 if self.how == "no key" else x
        return (jnp.int32(0), x), x

    def step(self, state, action, key):
        t, x = state
        noise = 0.0 if self.how == "no key" else 0.1 * jax.random.normal(key, (2,))
        a = 0.0 if self.how == "no action" else action[0]
        x = jnp.clip(0.9 * x + 0.1 * a + noise, -5, 5)
        far = jnp.abs(x).max() > 1.3
        reward, terminated, truncated = -jnp.abs(x).sum(), far, jnp.bool_(False)
        seen = x
        match self.how:
            case "if":
                x = x if x[0] > 0 else -x
            case "numpy":
                x = x * np.random.uniform(0.9, 1.0)
            case "state":
                t = t + 0.5
            case "reward shape":
                reward = reward[None]
            case "outside":
                seen = 10 * x
            case "NaN":
                seen = jnp.sqrt(x + 0.5)
            case "limit":
                terminated = t >= 20
            case "no limit":
                terminated = jnp.bool_(False)
            case "scale":
                seen, reward = x, reward * 1e5
            case "both":
                terminated = truncated = t >= 15
            case "late":
                seen = state[1]
            case "int ends":
                terminated = far.astype(jnp.int32)
        return Step((t + 1, x), seen, reward, terminated, truncated)


class NoPytree(Environment):
    @property
    def spec(self):
        return Spec(Box((1,), -1.0, 1.0), Discrete(2), 10)


def in_jax(how):
    return lambda: InJax(how)


# ---- the faults

nan_at = lambda where: lambda e, o: o * np.nan if e.t == where else o  # noqa: E731
box = lambda low, high, n=3: spaces.Box(low, high, (n,), np.float32)  # noqa: E731

FAULTS = {
    # what reset and step return
    "reset returns the observation alone": ("reset-returns", sound(first=lambda e, r: r[0])),
    "reset returns no info": ("reset-returns", sound(first=lambda e, r: (r[0], None))),
    "step returns four values": ("step-returns", sound(result=lambda e, r: (r[0], r[1], r[2] or r[3], {}))),
    "step returns nothing": ("step-returns", sound(result=lambda e, r: None)),
    "step returns no info": ("info", sound(result=lambda e, r: (*r[:4], None))),
    "reset takes no seed": ("reset-arguments", NoSeed),
    "reset takes no options": ("reset-arguments", NoOptions),
    "a method seed, as long ago": ("reset-arguments", OldSeed),
    "the seed is 0 by default": ("reseeds", SeedOfZero),
    "reset needs a seed": ("reset-raises", NeedsSeed),
    "an observation of another shape": ("observation", sound(obs=lambda e, o: o[:2])),
    "an observation as a column": ("observation", sound(obs=lambda e, o: o[:, None])),
    "float64 where float32 is declared": ("dtype", sound(obs=lambda e, o: o.astype(np.float64))),
    "an observation that is a list": ("dtype", sound(obs=lambda e, o: o.tolist())),
    "a cell that does not exist": ("observation", lambda: Cells(seen=lambda cell: cell + 1)),
    "a cell that is a real number": ("observation", lambda: Cells(seen=float)),
    "a dict without a key": ("observation", sound(seen=spaces.Dict(a=REAL, b=REAL), obs=lambda e, o: {"a": o})),
    "NaN in the twentieth observation": ("nan", sound(obs=nan_at(20))),
    "infinity at the start": ("nan", sound(obs=lambda e, o: o + np.inf if e.t == 0 else o)),
    "a NaN reward": ("nan-reward", sound(reward=lambda e, r: float("nan") if e.t == 9 else r)),
    "a reward that is an array": ("reward", sound(reward=lambda e, r: np.array([r]))),
    "no reward": ("reward", sound(reward=lambda e, r: None)),
    "an end that is a word": ("ends", sound(ends=lambda e, r: (str(r[0]), r[1]))),
    "an end that is an array": ("ends", sound(ends=lambda e, r: (np.array([r[0]]), r[1]))),
    "observations beyond their bounds": ("bounds", sound(obs=lambda e, o: 20 * o)),
    "first observations beyond their bounds": ("bounds", sound(obs=lambda e, o: o + 9 if e.t == 0 else o)),
    # spaces
    "no action space": ({"refused", "cannot-be-made"}, NoActions),
    "two actions at once": ("refused", sound(action=spaces.MultiDiscrete([2, 2]))),
    "bounds upside down": ({"refused", "bounds"}, UpsideDown),
    "a space that changes": ("spaces-change", Growing),
    # seeds
    "NumPy's global generator": ("global-random", sound(noise=lambda e, n: 0.1 * np.random.normal(size=3))),
    "Python's global generator": ("global-random", sound(noise=lambda e, n: 0.1 * random.gauss(0, 1))),
    "a generator without a seed": ("determinism", sound(noise=lambda e, n: 0.1 * unseeded())),
    "a clock": ("determinism", sound(noise=lambda e, n: n + 1e-3 * (time.perf_counter() % 1))),
    "noise that fades over all episodes": ("leak", sound(noise=lambda e, n: n / (1 + e.age))),
    "a speed that is not reset": ("leak", Velocity),
    "a state in the class": ("shared", InClass),
    "a constructor that draws": ("instances", DrawsWhenMade),
    "no seed is seed 0": ("reseeds", SeedsWithoutSeed),
    "every seed is seed 0": ("seeding", SameForAll),
    "reset seeds NumPy": ("global-seed", sound(begin=seeds_numpy)),
    "nothing is random, though it should be": ("seed-ignored", Fixed),
    # arrays
    "one array for all observations": ("alias", sound(obs=into_buffer)),
    "the observation is the state": ("alias", State),
    "the observation is a view of the state": ("alias", Borrows),
    "the action is changed": ("action-changed", ChangesAction),
    # ends
    "a time limit that terminates": ("limit-as-end", sound(ends=lambda e, r: (e.t >= 25, False))),
    "a time limit beside true ends": ("limit-as-end", sound(limit=25, ends=lambda e, r: (r[0] or r[1], False))),
    "both ends at once": ("both-ends", sound(ends=lambda e, r: (r[0] or r[1],) * 2)),
    "no end": ("no-end", sound(ends=lambda e, r: (False, False))),
    "an end at once": ("one-step", sound(ends=lambda e, r: (True, False))),
    "a step that resets": ("final-observation", ResetsItself),
    "a step that starts anew": ("final-observation", lambda: StartsAnew(begin=lambda e, x: np.full(3, 1.0))),
    "a limit that is not the declared one": ("two-limits", lambda: gymnasium.make(SHORTER)),
    # actions
    "actions without bounds": ("action-bounds", sound(action=box(-np.inf, np.inf, 2))),
    "an action that is fixed": ("action-stuck", sound(action=spaces.Box(np.float32([-1, 0]), np.float32([1, 0])))),
    "one action": ("one-action", lambda: Cells(actions=spaces.Discrete(1))),
    "actions without effect": ("action-ignored", sound(act=lambda e, a: 0 * a)),
    "an entry without effect": ("action-dead", sound(act=lambda e, a: a * [1, 0])),
    "actions that are clipped": ("action-clipped", sound(action=box(-10, 10, 2), act=lambda e, a: np.clip(a, -1, 1))),
    "actions up to a million": ("action-scale", sound(action=box(-1e6, 1e6, 2), act=lambda e, a: a / 1e6)),
    "an action that raises": ("step-raises", lambda: Cells(act=lambda a: raises("no") if a == 1 else a)),
    "NaN at the largest action": ("nan", sound(act=lambda e, a: np.where(np.abs(a) < 1, a, np.nan))),
    # observations and rewards
    "a sensor that is not read": ("constant", sound(obs=lambda e, o: o * np.float32([1, 1, 0]))),
    "the same observation for ever": ("constant", sound(obs=lambda e, o: o * 0)),
    "an observation that explodes": ("exploding", sound(seen=FREE, ends=only_limit, obs=doubled)),
    "pascals": ("scale", sound(seen=box(0, np.inf), obs=lambda e, o: 1e5 + 1e4 * o)),
    "metres of a molecule": ("small", sound(obs=lambda e, o: 1e-9 * o)),
    "an observation one step late": ("stale", sound(obs=one_step_late)),
    "a picture of real numbers": ("picture", lambda: Camera(dtype=np.float32)),
    "pictures that fit no memory": ("memory", lambda: Camera((400, 600, 3))),
    "no reward ever": ("reward-zero", sound(reward=lambda e, r: 0.0)),
    "rewards of a million": ("reward-scale", sound(reward=lambda e, r: 1e6 * r)),
    "rewards of a millionth": ("reward-scale", sound(reward=lambda e, r: 1e-6 * r)),
    "a reward that adds up": ("reward-cumulative", sound(ends=only_limit, reward=lambda e, r: float(e.t))),
    "a reward that says nothing": ("reward-constant", sound(ends=only_limit, reward=lambda e, r: -1.0)),
    "another reward than compute_reward": ("goal-reward", Goals),
    # the rest
    "twenty steps a second": ("speed", Slow),
    "a step that prints": ("prints", sound(result=lambda e, r: print("step", e.t) or r)),
    "close raises": ("close-raises", lambda: type("Closes", (Sound,), {"close": lambda self: raises("open")})()),
    "an error after fifty steps": ("step-raises", sound(reward=lambda e, r: raises("late") if e.age == 50 else r)),
    "a constructor that raises": ("cannot-be-made", sound(init=lambda e, _: raises("no model file"))),
    # in JAX
    "JAX: an if": ("step", in_jax("if")),
    "JAX: NumPy draws": ("global-random", in_jax("numpy")),
    "JAX: a state of another dtype": ("step", in_jax("state")),
    "JAX: a reward that is an array": ("step", in_jax("reward shape")),
    "JAX: ends that are numbers": ("step", in_jax("int ends")),
    "JAX: beyond the bounds": ("bounds", in_jax("outside")),
    "JAX: NaN": ("nan", in_jax("NaN")),
    "JAX: a time limit that terminates": ("limit-as-end", in_jax("limit")),
    "JAX: no limit and no end": ("no-end", in_jax("no limit")),
    "JAX: actions without effect": ("action-ignored", in_jax("no action")),
    "JAX: reset without its key": ("seed-ignored", in_jax("no key")),
    "JAX: rewards of a hundred thousand": ("reward-scale", in_jax("scale")),
    "JAX: both ends at once": ("both-ends", in_jax("both")),
    "JAX: an observation one step late": ("stale", in_jax("late")),
    "JAX: no @pytree": ("cannot-be-made", NoPytree),
}  # fmt: skip
