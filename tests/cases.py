"""The algorithms as tests that are the same for all see them: one row each, and nothing else kept by hand.

A new algorithm adds its row to `CASES`. What can be found in the code is not said here: which actions it takes,
which settings it has, which kind of data it asks for.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.algorithms import find
from polyak.envs.environment import rules
from polyak.envs.find import find as find_env
from polyak.envs.worlds.counting import Counting
from polyak.interface import Box, Discrete, OnPolicy, Replay, Spec


@dataclass(frozen=True)
class Case:
    """A row.

    name        as a user types it
    value       (state, obs [B, D]) -> V(obs) [B], as far as the state tells; None where no value is learned of what
                the ladder shows: then it does not climb it
    learns      settings with which it climbs the ladder of `polyak.envs.probes`, `data` as a dict
    episodes    whole episodes of each environment in a rollout, where it asks for such
    rungs       iterations, of four environments, until it has climbed each of its rungs
    constant    iterations, of two environments, until it knows that 1 for ever is worth 100
    small       settings with which it compiles in no time and does all that it can do
    at_once     settings with which even its first update moves everything
    whole       settings with which a few rollouts show all that its whole update does: every schedule falls within
                48 steps, and no two settings are equal by accident
    squashed    its real actions lie in [-1, 1] by themselves; others are clipped at the border
    bootstraps  it looks beyond the end of a rollout and a time limit, by a value or by a window's last row
    together    all its environments play one policy, with or without exploration: it tries one after another
    freezes     parts of its networks can be kept from moving; not where it moves them in a way of its own
    tasks       its tasks in tests of drivers, in graph and on the host, where CartPole and Pendulum do not fit it
    few         it is one of the few that stand for all in tests of drivers and runs, in pages and in messages
    """

    name: str
    value: Callable[[Any, Any], Any] | None = None
    learns: dict[str, Any] = field(default_factory=dict)
    rungs: int = 0
    constant: int = 0
    episodes: int = 1
    small: dict[str, Any] = field(default_factory=dict)
    at_once: dict[str, Any] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    squashed: bool = False
    bootstraps: bool = True
    together: bool = False
    freezes: bool = True
    tasks: tuple[str, str] | None = None
    few: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of actions that it takes, the one that tests of drivers give it first."""
        return find(self.name).actions

    @property
    def continuous(self) -> bool:
        """Whether tests of drivers give it a task with real actions."""
        return self.kinds[0] == "continuous"

    @property
    def world(self) -> str:
        """The task of those tests, on the host."""
        return self.task("host")

    def task(self, place: str) -> str:
        """The task of those tests in a place, "graph" or "host"."""
        name = "Pendulum-v1" if self.continuous else "CartPole-v1"
        in_graph, on_host = self.tasks or (f"jax:{name}", name)
        return in_graph if place == "graph" else on_host

    @property
    def places(self) -> tuple[str, ...]:
        """Where it steps environments: where their rules are at hand, for a planner; nowhere, if it needs no data."""
        data = find(self.name).Config().data
        return () if data.plans else ("graph",) if data.simulator else ("graph", "host")

    @property
    def ruled(self) -> bool:
        """Whether it plans with the environment's rules."""
        data = find(self.name).Config().data
        return data.simulator or data.plans

    def spec(self, kind: str | None = None, **more: Any) -> Spec:
        """A world that it can be asked about: observations that it takes, three actions or two numbers."""
        obs = Discrete(6) if find(self.name).observes == "discrete" else Box((3,))
        action = {"discrete": Discrete(3), "continuous": Box((2,), -2.0, 2.0)}[kind or self.kinds[0]]
        found = Spec(obs, action, **more)
        if not self.ruled:
            return found
        if find(self.name).Config().data.plans:
            env = find_env(self.task("graph"), {})
            return dataclasses.replace(found, obs=env.spec.obs, action=env.spec.action, model=rules(env))
        model = Counting(continuous=isinstance(action, Box))
        return dataclasses.replace(found, action=model.spec.action, model=rules(model))

    def data(self, on_policy: dict[str, Any], replay: dict[str, Any]) -> dict[str, Any]:
        """The sizes that fit its kind of data."""
        kinds, data = {OnPolicy: on_policy, Replay: replay}, find(self.name).Config().data
        return {"episodes": self.episodes} if data.episodes else kinds.get(type(data), {})

    def config(self, data: dict[str, Any] | None = None, **values: Any) -> Any:
        """A small Config: with those of `values` that it has, and with `data` in place of its data's own."""
        Config = find(self.name).Config
        has = {entry.name for entry in dataclasses.fields(Config)}
        chosen = {name: value for name, value in values.items() if name in has}
        cfg = Config(**{**self.small, **chosen})
        return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **(data or {})))


SMALL = {"hidden": (8,)}
WIDE = {"hidden": (32, 32)}
RING = {"capacity": 1000, "batch_size": 32, "warmup": 100, "steps": 4, "updates": 40}
TABLE = {
    **{
        "huber": 0.0,
        "lr": 0.01,
        "tau": 1.0,
        "period": 4,
        "max_norm": 1e3,
        "epsilon": 0.5,
        "epsilon_end": 0.5,
    },
    "data": {"capacity": 200, "batch_size": 16, "warmup": 40, "steps": 4, "updates": 40, "clip": None},
}


def rainbow_value(state: Any, obs: Any) -> Any:
    """max_a E[Z(s, a)] of a dueling network on 51 atoms."""
    out = state.q(obs)
    out = out.reshape(len(out), -1, 51)
    out = out[:, :1] + out[:, 1:] - out[:, 1:].mean(axis=1, keepdims=True)
    return (jax.nn.softmax(out) @ jnp.linspace(-5, 120, 51)).max(axis=1)


TRUSTING = {
    **{"lam": 1.0, "delta": 0.02, "value_lr": 0.02, "value_epochs": 20, "value_parts": 2},
    "data": {"steps": 20},
}
SEARCH = {"hidden": (), "population": 16, "data": {"episodes": 4}}
CASES = [
    Case(
        name="a2c",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={
            **{"lr": 0.05, "lr_end": 0.02, "horizon": 40_000, "max_norm": 1e3, "entropy": 0.0},
            "data": {"steps": 20},
        },
        rungs=500,
        constant=1000,
        small=SMALL,
    ),
    Case(
        name="a3c",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={
            **{"lr": 0.02, "lr_end": 0.1, "horizon": 40_000, "eps": 1e-3, "entropy": 0.0},
            "data": {"steps": 20},
        },
        rungs=500,
        constant=1000,
        small=SMALL,
    ),
    Case(
        name="actor_critic",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={"lr": 0.02, "value_lr": 0.02, "value_steps": 20, "data": {"episodes": 4}},
        rungs=150,
        constant=400,
        small={**SMALL, "value_steps": 2},
    ),
    Case(
        name="alphazero",
        small={**SMALL, "simulations": 4},
        bootstraps=False,
    ),
    Case(
        name="async_q",
        value=lambda state, obs: state.q(obs).max(axis=-1),
        learns={
            **{"rule": "adam", "lr": 3e-3, "lr_end": 1.0, "period": 4, **WIDE},
            **{"epsilon": 0.5, "epsilon_ends": (0.5,), "chances": (), "data": {"steps": 4}},
        },
        rungs=3000,
        constant=10_000,
        small={**SMALL, "period": 3, "lr": 1e-3, "chances": ()},
        at_once={"period": 1},
    ),
    Case(
        name="cma_es",
        value=None,
        learns={**SEARCH, "sigma": 1.0},
        rungs=60,
        small={"population": 4, "sigma": 0.01},
        at_once={"sigma": 3.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="count_planning",
        small={"enough": 2, "sweeps": 3, "epsilon": 0.5},
        tasks=("jax:DynaMaze-v0", "FrozenLake-v1"),
    ),
    Case(
        name="cross_entropy",
        value=None,
        learns={**SEARCH, "elites": 4, "sigma": 1.0},
        rungs=60,
        small={**SMALL, "population": 4, "elites": 2, "sigma": 0.01, "extra": 1e-4},
        at_once={"sigma": 3.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="d4pg",
        value=lambda state, obs: (
            jax.nn.softmax(state.critic((obs, jnp.tanh(state.actor(obs))))) @ jnp.linspace(-5, 120, 51)
        ),
        learns={
            **{"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.3, "period": 1, "sigma": 0.5, **WIDE},
            **{"low": -5.0, "high": 120.0, "data": {**RING, "n_step": 1}},
        },
        rungs=200,
        constant=250,
        small={**SMALL, "period": 3, "atoms": 5},
        at_once={"period": 1},
        squashed=True,
    ),
    Case(
        name="ddpg",
        value=lambda state, obs: state.critic((obs, jnp.tanh(state.actor(obs))))[..., 0],
        learns={"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.3, "sigma": 0.5, **WIDE, "data": RING},
        rungs=200,
        constant=250,
        small=SMALL,
        squashed=True,
    ),
    Case(
        name="double_dqn",
        value=lambda state, obs: state.q(obs).max(axis=-1),
        learns={**TABLE, **WIDE, "lr": 3e-3, "tau": 0.1, "period": 1},
        rungs=60,
        constant=250,
        small={**SMALL, "period": 3, "epsilon_fraction": 0.5, "lr": 1e-3},
        at_once={"period": 1},
    ),
    Case(
        name="dpg",
        freezes=False,
        value=lambda state, obs: state.value(obs)[..., 0],
        learns={
            **{"actor_lr": 0.05, "advantage_lr": 0.2, "value_lr": 0.2, "sigma": 0.5, "hidden": (32,)},
            "data": RING,
        },
        rungs=200,
        constant=300,
        small=SMALL,
        squashed=True,
    ),
    Case(
        name="dqn",
        value=lambda state, obs: state.q(obs).max(axis=-1),
        learns=TABLE,
        rungs=60,
        constant=250,
        small={**SMALL, "period": 3, "epsilon_fraction": 0.5, "lr": 1e-3},
        at_once={"period": 1},
        whole={"period": 3, "tau": 0.4, "lr": 1e-2, "lr_end": 0.1, "horizon": 48, "max_norm": 0.5},
        few=True,
    ),
    Case(
        name="dyna_q",
        small={"planning": 3, "kappa": 0.01, "epsilon": 0.5},
        tasks=("jax:DynaMaze-v0", "FrozenLake-v1"),
    ),
    Case(
        name="finite_difference",
        value=None,
        learns=SEARCH,
        rungs=60,
        small={"population": 4, "epsilon": 0.01, "lr": 0.01},
        at_once={"epsilon": 1.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="fitted_q",
        value=lambda state, obs: state.q(obs).max(axis=-1),
        learns={**WIDE, "lr": 3e-3, "iterations": 20, "regression": 20, "data": {"steps": 20}},
        rungs=20,
        constant=60,
        small={**SMALL, "iterations": 2, "regression": 3},
    ),
    Case(
        name="genetic",
        value=None,
        learns={**SEARCH, "parents": 4, "sigma": 0.5},
        rungs=60,
        small={**SMALL, "population": 4, "parents": 2, "sigma": 0.01},
        at_once={"sigma": 3.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="guided_policy_search",
        small={
            **{**SMALL, "regression": 3, "minibatch": 8, "inner": 1, "bisections": 5},
            "data": OnPolicy(episodes=2, common=2),
        },
        episodes=2,
        bootstraps=False,
    ),
    Case(
        name="hill_climbing",
        value=None,
        learns={**SEARCH, "sigma": 0.5},
        rungs=60,
        small={**SMALL, "population": 4, "sigma": 0.01},
        at_once={"sigma": 3.0},
        episodes=2,
        bootstraps=False,
    ),
    Case(
        name="kohl_stone",
        value=None,
        learns={**SEARCH, "scale": 1.0, "epsilon": 0.3, "eta": 0.3},
        rungs=60,
        small={"population": 4, "epsilon": 0.01, "eta": 0.01},
        at_once={"epsilon": 1.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="learned_lqr",
        small={"sweeps": 20},
        bootstraps=False,
    ),
    Case(
        name="mcts",
        small={"simulations": 8, "rollout": 5},
        bootstraps=False,
    ),
    Case(
        name="mpc",
        small={**SMALL, "members": 2, "lookahead": 3, "samples": 8, "elites": 2, "iterations": 2},
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="muzero",
        small={
            **{**SMALL, "width": 8, "simulations": 4, "unroll": 2, "atoms": 5, "low": -2.0, "high": 4.0},
            "data": Replay(length=5, uniform=False, self_play=True),
        },
    ),
    Case(
        name="naf",
        value=lambda state, obs: state.q(obs)[..., 0],
        learns={"lr": 3e-3, "tau": 0.3, "sigma": 0.5, "max_norm": 1e3, **WIDE, "data": RING},
        rungs=200,
        constant=250,
        small=SMALL,
        squashed=True,
    ),
    Case(
        name="nelder_mead",
        value=None,
        learns={"data": {"episodes": 8, "common": 8}},
        rungs=200,
        small={"edge": 0.1},
        at_once={"edge": 5.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
        together=True,
    ),
    Case(
        name="npg",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns=TRUSTING,
        rungs=100,
        constant=150,
        small={**SMALL, "iterations": 3, "value_epochs": 2, "value_parts": 2},
    ),
    Case(
        name="openai_es",
        value=None,
        learns={**SEARCH, "sigma": 0.5, "lr": 0.1, "decay": 0.0},
        rungs=60,
        small={**SMALL, "population": 4, "lr": 1e-3},
        at_once={"sigma": 3.0},
        episodes=2,
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="planet",
        small={
            **{"deterministic": 4, "stochastic": 2, "hidden": 8, "filters": 2, "overshooting": 2},
            **{"lookahead": 3, "samples": 8, "elites": 2, "iterations": 2},
            "data": Replay(length=4),
        },
        squashed=True,
        bootstraps=False,
    ),
    Case(
        name="ppo",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={
            **{"lr": 0.05, "lr_end": 0.02, "horizon": 20_000, "minibatch": 20, "epochs": 8, "max_norm": 1e3},
            **{"lam": 1.0, "data": {"steps": 20}},
        },
        rungs=200,
        constant=500,
        small={**SMALL, "epochs": 2},
        whole={
            **{"epochs": 3, "minibatch": 4, "lr": 1e-2, "lr_end": 0.1, "horizon": 48},
            **{"entropy": 0.05, "clip": 0.3},
        },
        few=True,
    ),
    Case(
        name="ppo_kl",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={
            **{"lr": 0.05, "lr_end": 0.02, "horizon": 20_000, "minibatch": 20, "epochs": 8, "max_norm": 1e3},
            **{"lam": 1.0, "data": {"steps": 20}},
        },
        rungs=200,
        constant=500,
        small={**SMALL, "epochs": 2, "lr": 1e-2, "kl_target": 1e-3},  # beta goes up and down
    ),
    Case(
        name="q_learning",
        value=lambda state, obs: state.q(obs).max(axis=-1),
        learns={**WIDE, "lr": 3e-3, "epsilon": 0.5, "epsilon_end": 0.5, "data": {"steps": 4}},
        rungs=3000,
        constant=10_000,
        small={**SMALL, "lr": 1e-3},
    ),
    Case(
        name="qt_opt",
        value=lambda state, obs: jnp.max(
            jnp.stack([state.critics.first((obs, jnp.full_like(obs, a))) for a in np.linspace(-1, 1, 41)]),
            axis=(0, -1),
        ),
        learns={"lr": 3e-3, "tau": 0.3, "epsilon": 0.5, "samples": 16, **WIDE, "data": RING},
        rungs=200,
        constant=250,
        small={**SMALL, "samples": 8, "elites": 3},
        squashed=True,
    ),
    Case(
        name="rainbow",
        value=rainbow_value,
        learns={
            **{"lr": 3e-3, "tau": 0.1, "period": 1, "max_norm": 1e3, "network": "mlp", **WIDE},
            **{"epsilon": 0.5, "epsilon_end": 0.5, "low": -5.0, "high": 120.0},
            "data": {**TABLE["data"], "n_step": 1, "correction": 1.0},
        },
        rungs=100,
        constant=250,
        small={
            **{**SMALL, "period": 3, "epsilon_fraction": 0.5, "lr": 1e-3, "atoms": 5},
            **{"network": "mlp", "epsilon": 1.0, "epsilon_end": 0.1},
        },
        at_once={"period": 1},
    ),
    Case(
        name="reinforce",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns={"lr": 0.02, "value_lr": 0.02, "value_steps": 20, "data": {"episodes": 4}},
        rungs=150,
        constant=400,
        small={**SMALL, "value_steps": 2},
    ),
    Case(
        name="riccati",
        bootstraps=False,
        together=True,
        tasks=("jax:LQR", ""),
    ),
    Case(
        name="rollout_planning",
        small={"rollouts": 2, "lookahead": 4},
        bootstraps=False,
    ),
    Case(
        name="sac",
        value=lambda state, obs: state.critics((obs, state.policy(obs).mode()))[..., 0].min(axis=0),
        learns={"lr": 3e-3, "tau": 0.1, "alpha": 1e-3, **WIDE, "data": RING},
        rungs=200,
        constant=300,
        small=SMALL,
        squashed=True,
    ),
    Case(
        name="sdqn",
        value=lambda state, obs: state.q[0]((obs, obs[:, :0])).max(axis=-1),
        learns={
            **{"lr": 1e-3, "tau": 0.1, "bins": 6, "epsilon": 0.5, "epsilon_end": 0.5},
            **{**WIDE, "data": RING},
        },
        rungs=200,
        constant=300,
        small={**SMALL, "bins": 4},
        squashed=True,
    ),
    Case(
        name="svg",
        value=lambda state, obs: state.critic((obs, state.policy(obs).mode()))[..., 0],
        learns={"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.3, **WIDE, "data": RING},
        rungs=200,
        constant=250,
        small=SMALL,
        squashed=True,
    ),
    Case(
        name="td3",
        value=lambda state, obs: state.critics((obs, jnp.tanh(state.actor(obs))))[..., 0].min(axis=0),
        learns={
            **{"actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.3, "exploration": 0.5, "delay": 1},
            **{"hidden": (32, 32)},
            "data": {"capacity": 1000, "batch_size": 32, "warmup": 100, "steps": 4, "updates": 40},
        },
        rungs=300,
        constant=250,
        small=SMALL,
        at_once={"delay": 1},
        whole={"actor_lr": 1e-2, "critic_lr": 3e-3, "tau": 0.1, "delay": 2},
        squashed=True,
        few=True,
    ),
    Case(
        name="trpo",
        value=lambda state, obs: state.critic(obs)[..., 0],
        learns=TRUSTING,
        rungs=100,
        constant=150,
        small={**SMALL, "iterations": 3, "value_epochs": 2, "value_parts": 2},
    ),
    Case(name="vae", small={**SMALL, "latent": 3}, squashed=True, bootstraps=False),
    Case(
        name="value_iteration",
        bootstraps=False,
        together=True,
        tasks=("jax:DynaMaze-v0", ""),
    ),
]


CASE = {case.name: case for case in CASES}
FEW = [case.name for case in CASES if case.few]
COLLECTING = [case.name for case in CASES if case.places]  # those that drivers collect data for
KINDS = [(case.name, kind) for case in CASES for kind in case.kinds]
VALUED = [case.name for case in CASES if case.value]  # those that climb the ladder


# ---- which tests run when


def marked(params: Iterable[Any], later: Callable[..., str | None]) -> list[Any]:
    """Parameters of a test, each with the mark that `later` gives it.

    later  (*param) -> "slow" for what `make check` leaves out, "long" for what `make test` leaves out too, or None
    """
    chosen = []
    for param in params:
        words = param if isinstance(param, tuple) else (param,)
        mark = later(*words)
        chosen.append(pytest.param(*words, marks=[getattr(pytest.mark, mark)] if mark else []))
    return chosen


def few_now(name: str, *more: Any) -> str | None:
    """The few at once, every other algorithm in `make test-long`."""
    return None if name in FEW else "long"


def few_first(name: str, *more: Any) -> str | None:
    """The few at once, every other algorithm in `make test`."""
    return None if name in FEW else "slow"
