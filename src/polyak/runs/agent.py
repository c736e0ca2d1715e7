"""The words that Stable-Baselines3 users know: an agent that learns, predicts, is saved and loaded."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import jax

from polyak.drivers.program import map_seeded
from polyak.envs.adapters.gymnasium import OneGymnasium
from polyak.envs.adapters.processes import check_main_guard
from polyak.envs.environment import Environment
from polyak.envs.find import find, name_of
from polyak.errors import UserError
from polyak.runs import inputs
from polyak.runs.beginning import device
from polyak.runs.decide import make_plan, settings_of
from polyak.runs.evaluation import Evaluation, play
from polyak.runs.events import Callback, callbacks
from polyak.runs.execute import check_folder, draw, save_checkpoint
from polyak.runs.folder import RunFolder
from polyak.runs.guards import interruptible
from polyak.runs.loop import Interrupted, Training
from polyak.runs.plan import Plan, Settings
from polyak.runs.policy import Policy
from polyak.runs.presets import preset, preset_fields
from polyak.runs.run import Run, say_horizon
from polyak.runs.session import Session
from polyak.runs.setup import set_up_jax
from polyak.runs.tracking import tracking
from polyak.runs.values import whole
from polyak.show.terminal import Terminal, silent
from polyak.store import checkpoint


def budget_of(plan: Plan) -> dict[str, int]:
    """What each call of `learn` chooses anew."""
    return {name: getattr(plan, name) for name in ("steps", "eval_every", "checkpoint_every")}


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
        check_main_guard()
        self.algorithm, self.env, self.config, self.env_fields = algorithm, name_of(env), config, env_fields
        self._given = None if isinstance(env, str) else env
        self.settings = settings_of(algorithm, {**settings, "seed": seed})
        if self.settings.updates:
            raise UserError("an agent learns by steps: for updates from --data alone call polyak.train")
        self.training: Training | None = None
        self.metrics: list[dict[str, Any]] = []
        self._policy: Policy | None = None
        set_up_jax(self.settings.devices)
        self._plan()  # mistakes are said here and not in `learn`

    # ---- learn

    def learn(
        self,
        total_timesteps: int,
        verbose: bool = True,
        reset_num_timesteps: bool = False,
        on_log: Callback | None = None,
        on_evaluation: Callback | None = None,
        on_checkpoint: Callback | None = None,
    ) -> Self:
        """Train for so many more environment steps; Ctrl-C stops early and keeps what was learned.

        Schedules run to the end of these steps unless `config` has a horizon: that of a second call goes on from
        where it was, over all steps so far and these. A call whose schedules end elsewhere compiles again; who
        learns in many short calls gives the horizon of all.

        reset_num_timesteps  count steps, schedules and metrics from 0 again; what was learned stays
        on_...               functions of an `Event`, as of `polyak.train`: one that returns False ends this call. An
                             agent writes no checkpoint by itself: on_checkpoint is told when one would be due
        """
        told = callbacks(on_log=on_log, on_evaluation=on_evaluation, on_checkpoint=on_checkpoint)
        total_timesteps = whole("total_timesteps", total_timesteps, 1, 2**63 - 1)
        set_up_jax(self.settings.devices)  # one that was loaded has not
        terminal = Terminal() if verbose and not self.settings.quiet else silent()
        before = 0 if reset_num_timesteps else self.env_steps
        plan = self._plan(before + total_timesteps, total_timesteps)
        if self.training is None:
            self._begin(plan if self._resume_from is None else self._resume_from.plan, terminal)
        training = self.training
        assert training is not None
        training.terminal = terminal
        session = training.session
        if training.iteration and not reset_num_timesteps:
            say_horizon(session.plan, plan, session.algorithm, terminal)
        training.replan(plan, reset_num_timesteps)
        if not training.iteration:
            for line in session.cautions():
                terminal.warn(f"note: {line}")
        if reset_num_timesteps:
            self.metrics.clear()
        training.stop.clear()
        self._policy_at = None
        try:
            with interruptible(training.stop, terminal):
                with terminal.status("compiling"):
                    training.compile()
                with tracking(self.settings.track, self, session.plan, None, terminal.warn) as sink:
                    training.run(sink, callbacks=told)
        except Interrupted:
            terminal.say(f"stopped at step {training.env_steps:,}")
        finally:
            self._policy_at = None
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
        if self._policy is not None and self._policy_at == (self.training and self.training.iteration):
            return self._policy
        if self.training is None:
            self._begin(self._plan(), silent())
        training = self.training
        assert training is not None
        tree, _ = training.session.driver.pack(training.carry)
        state = map_seeded(lambda x: x[0], jax.tree.map(lambda x: x.copy(), tree["state"]))
        session, before = training.session, self._policy
        state = state if session.devices is None else session.devices.first(state)
        if before is not None and before.cfg == session.cfg:
            self._policy = before.of_state(state)
        else:  # the first, or the horizon is another
            self._policy = Policy(session.plan, session.spec, session.border, state)
            if before is not None:
                self._policy.seed, self._policy.draws = before.seed, before.draws
        self._policy_at = training.iteration
        return self._policy

    def evaluate(
        self, episodes: int = 20, seed: int | None = None, sample: bool = False, limit: int | None = None
    ) -> Evaluation:
        """Play so many episodes on environments of their own; `seed` chooses other episodes, `sample` explores.

        limit  steps where an episode is cut, instead of `eval_limit`
        """
        if self.training is None:
            self._begin(self._plan(), silent())
        training = self.training
        assert training is not None
        actor = training.session.driver.actor(training.carry)
        try:
            return play(training.session, actor, episodes, seed, sample, limit)
        finally:
            if isinstance(training.session.world, OneGymnasium):  # it was played in the middle of an episode
                training.take_back()

    # ---- save and load

    def save(self, path: str | Path) -> Path:
        """Make a run folder of it, with everything that is needed to go on; UserError if it is another's."""
        folder = RunFolder(Path(path))
        if self.training is None:
            self._begin(self._plan(), silent())
        assert self.training is not None
        plan = self.training.session.plan
        with folder.held():
            if not folder.begun:
                folder.create(plan, "", device())
            elif (there := folder.plan()) != plan:
                if differences := dataclasses.replace(there, **budget_of(plan)).differences(plan):
                    raise UserError(
                        f"{folder.path} holds a run with other settings ({differences}): choose another path"
                    )
                folder.replan(plan, self.env_steps)
            folder.keep(self.metrics)
            save_checkpoint(folder, self.training)
            draw(folder, silent())
        return folder.path

    @classmethod
    def load(
        cls, path: str | Path, *, env: Any = None, algorithm: str | None = None, trust: Iterable[str] = ()
    ) -> Self:
        """The agent that was saved, or the first seed's of any run. No code named by the folder is run.

        env, algorithm  repeat a name of your own code (`my_module:MyEnv`) to say that you trust it; `env` may
                        also be what was trained on, and must where that has no name
        trust           what else of the folder you trust, as `--trust` takes it: ["env.xml_file"]
        """
        run = Run(path, env=env, algorithm=algorithm, trust=trust)
        if run.plan.seeds > 1:
            raise UserError(f"{path} has {run.plan.seeds} seeds; use polyak.load(...).policy(seed)")
        agent = cls.__new__(cls)
        agent.algorithm, agent.env = run.plan.algorithm, run.plan.env
        agent.config, agent.env_fields, agent.metrics = None, run.plan.env_fields, run.metrics
        agent.settings = Settings(seed=run.plan.seed)
        agent.training = None
        agent._policy = run.policy()
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
    _policy_at: int | None = (
        None  # the iteration that `_policy` is of; None: not known, or nothing is trained
    )
    _given: Any = None

    def _plan(self, steps: int | None = None, more: int = 0) -> Plan:
        """The plan of a budget, of which `more` steps are to come; without one what is usual, which is never run."""
        if self._resume_from is not None:
            plan = self._resume_from.plan
            if plan.updates:
                raise UserError(
                    f"{self._resume_from.path} takes no environment step: lengthen it by polyak.load(...).resume("
                    "updates=N), or begin with what it learned by init"
                )
            return plan if steps is None else dataclasses.replace(plan, steps=steps)
        named = self.env if self._given is None else self._given
        tuned = preset(self.algorithm, self.env) if self.settings.preset else {}
        fields, evaluated = preset_fields(tuned, self.env_fields, None)
        world = find(named, fields, self.settings.measures)
        settings = dataclasses.replace(self.settings, seeds=1)
        if steps is not None:
            settings = dataclasses.replace(settings, steps=more)
        kind = {"in_graph": isinstance(world, Environment), "alone": isinstance(world, OneGymnasium)}
        plan = make_plan(self.algorithm, self.env, settings, self.config, fields, evaluated, **kind)
        if self.training is not None:  # the runs that it began from may have gone on
            before = self.training.session.plan
            plan = dataclasses.replace(plan, init=before.init, use=before.use)
            if self.training.iteration:  # shares of the steps stay what they were
                plan = dataclasses.replace(plan, config=before.config)
            Session(plan, self._given).check()
        else:
            session = Session(inputs.recorded(plan), self._given)
            session.check()
            inputs.check(session)
            plan = session.plan
        return plan if steps is None else dataclasses.replace(plan, steps=steps)

    def _begin(self, plan: Plan, terminal: Terminal) -> None:
        session = self._resume_from.trust() if self._resume_from is not None else Session(plan, self._given)
        if self._resume_from is not None:
            check_folder(session.plan, self._resume_from.folder, terminal)
        self.training = Training(session, terminal)
        if self._resume_from is None:
            self.training.start()
            return
        self.training.resume(self._resume_from.folder.checkpoints)
