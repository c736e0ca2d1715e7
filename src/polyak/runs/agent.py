"""The words that Stable-Baselines3 users know: an agent that learns, predicts, is saved and loaded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

from polyak.drivers.program import map_seeded
from polyak.envs.adapters.gymnasium import OneGymnasium
from polyak.envs.environment import Environment
from polyak.envs.find import find, name_of
from polyak.errors import UserError
from polyak.runs.folder import RunFolder
from polyak.runs.loop import Schedule, Training, interruptible, save_checkpoint
from polyak.runs.plan import Plan, Settings, make_plan
from polyak.runs.run import Evaluation, Policy, Run, device, play, silent
from polyak.runs.session import Session
from polyak.runs.setup import set_up_jax
from polyak.runs.values import amend, whole
from polyak.show.terminal import Terminal
from polyak.store import checkpoint


class Agent:
    """One policy and its training, in memory; `save` makes a run folder of it.

    >>> agent = Agent("ppo", "jax:CartPole-v1", config={"data.steps": 32}, num_envs=4)
    >>> agent.learn(total_timesteps=256, verbose=False).env_steps
    256
    """

    def __init__(
        self,
        algorithm: str,
        env: Any,
        *,
        seed: int = 0,
        config: Any = None,
        env_fields: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        self.algorithm, self.env, self.config, self.env_fields = algorithm, name_of(env), config, env_fields
        self._given = None if isinstance(env, str) else env
        self.settings = amend(Settings(), {**settings, "seed": seed})
        self.training: Training | None = None
        self.metrics: list[dict[str, Any]] = []
        self._policy: Policy | None = None
        self._plan(1)  # mistakes are said here and not in `learn`

    # ---- learn

    def learn(self, total_timesteps: int, verbose: bool = True) -> Self:
        """Train for so many more environment steps; Ctrl-C stops early and keeps what was learned."""
        total_timesteps = whole("total_timesteps", total_timesteps, 1, 2**63 - 1)
        set_up_jax()
        terminal = Terminal() if verbose else silent()
        if self.training is None:
            self._begin(self._plan(total_timesteps), terminal)
            for line in self.training.session.cautions() if self.training is not None else []:
                terminal.warn(f"note: {line}")
        training = self.training
        assert training is not None
        training.terminal = terminal
        plan = dataclasses.replace(training.session.plan, steps=training.env_steps + total_timesteps)
        training.session.plan = plan
        training.schedule = Schedule(training.session)
        training.stop.clear()
        self._fresh = False
        with interruptible(training.stop, terminal):
            with terminal.status("compiling"):
                training.compile()
            training.run(self)
        return self

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        if self.training is not None:
            return self.training.env_steps
        newest = self._resume_from and checkpoint.latest(self._resume_from.folder.checkpoints)
        return int(newest.name) if newest else 0

    # ---- predict

    def predict(
        self, obs: Any, memory: Any = None, deterministic: bool = True, seed: int | None = None
    ) -> tuple[Any, Any]:
        """An action for one observation, or actions for a batch of them, in the environment's own terms, and memory.

        Without `deterministic` it draws as in training, each call anew; `seed` begins that stream of random numbers.
        """
        return self.policy()(obs, memory, explore=not deterministic, seed=seed)

    def policy(self) -> Policy:
        """The policy as it is now."""
        if self._policy is not None and self._fresh:
            return self._policy
        if self.training is None:
            self._begin(self._plan(1), silent())
        training = self.training
        assert training is not None
        tree, _ = training.session.driver.pack(training.carry)
        state = map_seeded(lambda x: x[0], jax.tree.map(lambda x: x.copy(), tree["state"]))
        session, before = training.session, self._policy
        if before is None:
            self._policy = Policy(session.plan, session.spec, session.border, state)
        else:
            self._policy = before.of_state(state)
        self._fresh = True
        return self._policy

    def evaluate(self, episodes: int = 20, seed: int | None = None, sample: bool = False) -> Evaluation:
        """Play so many episodes on environments of their own; `seed` chooses other episodes, `sample` explores."""
        if self.training is None:
            self._begin(self._plan(1), silent())
        training = self.training
        assert training is not None
        return play(training.session, training.session.driver.actor(training.carry), episodes, seed, sample)

    # ---- save and load

    def save(self, path: str | Path) -> Path:
        """Make a run folder of it, with everything that is needed to go on; UserError if it is another's."""
        folder = RunFolder(Path(path))
        if self.training is None:
            self._begin(self._plan(1), silent())
        assert self.training is not None
        if not folder.path.exists():
            folder.create(self.training.session.plan, "", device())
        elif dataclasses.replace(folder.plan(), steps=1) != dataclasses.replace(
            self.training.session.plan, steps=1
        ):
            raise UserError(f"{folder.path} holds a run with other settings: choose another path")
        save_checkpoint(folder, self.training)
        return folder.path

    @classmethod
    def load(cls, path: str | Path, *, env: Any = None, algorithm: str | None = None) -> Self:
        """The agent that was saved, or the first seed's of any run. No code named by the folder is run.

        env, algorithm  repeat a name of your own code (`my_module:MyEnv`) to say that you trust it; `env` may
                        also be what was trained on, and must where that has no name
        """
        run = Run(path, env=env, algorithm=algorithm)
        if run.plan.seeds > 1:
            raise UserError(f"{path} has {run.plan.seeds} seeds; use polyak.load(...).policy(seed)")
        agent = cls.__new__(cls)
        agent.algorithm, agent.env = run.plan.algorithm, run.plan.env
        agent.config, agent.env_fields, agent.metrics = None, run.plan.env_fields, run.metrics
        agent.settings = Settings(seed=run.plan.seed)
        agent.training = None
        agent._policy, agent._fresh = run.policy(), True
        agent._resume_from = run
        return agent

    # ---- a sink for the loop: lines are kept in memory

    def write(self, line: dict[str, Any]) -> None:
        """Keep one metric line."""
        self.metrics.append(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Release the environments."""
        if self.training is not None:
            self.training.session.close()

    # ---- inside

    _resume_from: Run | None = None
    _fresh = False  # whether `_policy` is the newest
    _given: Any = None

    def _plan(self, steps: int) -> Plan:
        if self._resume_from is not None:
            return self._resume_from.plan
        named = self.env if self._given is None else self._given
        world = find(named, self.env_fields or {}, self.settings.measures)
        settings = dataclasses.replace(self.settings, steps=self.settings.steps or max(steps, 1), seeds=1)
        kind = {"in_graph": isinstance(world, Environment), "alone": isinstance(world, OneGymnasium)}
        plan = make_plan(self.algorithm, self.env, settings, self.config, self.env_fields, None, **kind)
        Session(plan, self._given).check()
        return plan

    def _begin(self, plan: Plan, terminal: Terminal) -> None:
        session = self._resume_from.trust() if self._resume_from is not None else Session(plan, self._given)
        self.training = Training(session, terminal)
        if self._resume_from is None:
            self.training.start()
            return
        self.training.resume(self._resume_from.folder.checkpoints)
