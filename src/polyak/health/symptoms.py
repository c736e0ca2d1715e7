"""Why a run does not learn, whatever it earns: what stands in its folder, and settings that cannot work.

A symptom is a function from a case to findings, each with a weight that ranks causes above what follows from them; a
finding is a plain sentence with its numbers and the setting to change. `behaviour` has the symptoms that a run may
show and learn all the same.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from polyak.health.case import Case, rows_per_update
from polyak.health.finding import Finding
from polyak.runs.folder import STOPPED

Weighed = tuple[int, Finding]
FEW = {True: 500, False: 20}  # updates, of an algorithm with a replay and of one without, that teach little


def warn(weight: int, name: str, says: str, fix: str) -> Weighed:
    """A warning of this weight."""
    return weight, Finding("warning", name, says, fix)


def rates(case: Case) -> str:
    """The learning rates of a run, as they are said."""
    names = [f.name for f in dataclasses.fields(case.cfg) if f.name == "lr" or f.name.endswith("_lr")]
    return ", ".join(f"--config.{name}, now {getattr(case.cfg, name):g}" for name in names) or "--config.lr"


# ---- what stands in the folder, whether it learned or not


def stopped(case: Case) -> Iterator[Weighed]:
    """It stopped for a fault, or its metrics are not finite."""
    path = case.run.path / STOPPED
    if path.is_file() and not case.run.finished:
        text = path.read_text(encoding="utf-8", errors="replace").strip()[:500]
        fix = "a lower learning rate, --wrap normalize_obs, or an environment that gives numbers"
        fix = fix if "finite" in text else "mend what the line names; polyak check-env says more"
        yield 100, Finding("error", "stopped", f"the run stopped after {case.done:,} steps: {text}", fix)
    for name in sorted({name for line in case.lines for name in line if "/" in name}):
        values = case.series(name)
        if (bad := np.isnan(values)).any():
            step = case.steps_of(name)[int(bad.argmax())]
            says = f"{name} is not finite, first in the log of step {step:,}"
            yield (
                99,
                Finding(
                    "error",
                    "not-finite",
                    says,
                    f"a lower learning rate ({rates(case)}) or --wrap normalize_obs",
                ),
            )
            return


def grown(case: Case) -> Iterator[Weighed]:
    """A loss that has grown beyond all measure."""
    for name in sorted(
        {name for line in case.lines for name in line if name.startswith("update/") and "loss" in name}
    ):
        values = np.abs(case.series(name))
        values = values[np.isfinite(values)]
        if len(values) >= 4 and values[-3:].mean() > 1e4 * max(values[0], 1e-3) and values[-1] > 1e3:
            says = f"{name} grew from {values[0]:.3g} to {values[-1]:.3g}: the update diverges"
            yield warn(
                95, "diverged", says, f"lower the learning rate ({rates(case)}), or slow the targets (tau)"
            )
            return


def no_episode(case: Case) -> Iterator[Weighed]:
    """No episode of training ever ended."""
    counts = case.series("episode/count")
    if len(counts) >= 3 and not counts.any():
        yield warn(
            96,
            "no-end",
            f"no episode ended in {case.done:,} steps of training: nothing begins anew, and late states "
            f"are all that is seen",
            "set a time limit: --env.max_episode_steps N, or Spec(time_limit=N) in JAX",
        )


def few_updates(case: Case) -> Iterator[Weighed]:
    """Hardly anything was learned from what was seen."""
    data, made = case.cfg.data, case.updates
    if not case.lines or case.done == 0:
        return
    if made < FEW[data.replays] and case.algorithm.learns:
        warm = f", {data.warmup:,} of them warm-up" if data.replays else ""
        fix = f"raise {case.longer}"
        if rows_per_update(case) > 64 and data.replays:
            fix = (
                f"lower --config.data.steps (now {data.steps:,}) or raise --config.data.updates (now "
                f"{data.updates})"
            )
        elif not data.replays and not data.episodes and data.steps > 64:
            fix = f"lower --config.data.steps (now {data.steps:,}), or raise {case.longer}"
        elif data.replays and data.warmup > 0.5 * case.done:
            fix = f"lower --config.data.warmup (now {data.warmup:,}), or raise {case.longer}"
        says = f"only {made:,} updates were made in {case.done:,} steps{warm}"
        yield warn(87, "few-updates", says, fix)


def settings(case: Case) -> Iterator[Weighed]:
    """Settings that cannot work, whatever the task."""
    cfg, data = case.cfg, case.cfg.data
    length = case.episode_length
    gamma = float(cfg.gamma)
    sees = 1 / max(1e-9, 1 - gamma)
    if (
        length is not None
        and length > 5
        and gamma < 1
        and sees < min(5.0, 0.2 * length)
        and case.algorithm.learns
    ):
        yield warn(
            86,
            "short-sighted",
            f"gamma {gamma:g} looks {sees:.1f} steps ahead, and episodes last {length:.0f}: what pays "
            f"later does not count",
            f"raise --config.gamma (now {gamma:g}), to 0.99 for instance",
        )
    if data.replays:
        held = data.slots(case.plan.num_envs) * case.plan.num_envs
        least = max(8 * data.batch_size, 2 * (length or 0))
        if held < least and case.plan.steps > 4 * held:
            yield warn(
                85,
                "small-replay",
                f"the replay holds {held:,} transitions, {held / max(1, length or 1):.1f} episodes' "
                f"worth: batches of "
                f"{data.batch_size} are all alike, and the rest is forgotten",
                f"raise --config.data.capacity (now {data.capacity:,})",
            )
        if data.batch_size < 8:
            says = f"a batch has {data.batch_size} rows: gradients are mostly noise"
            yield warn(83, "small-batch", says, f"raise --config.data.batch_size (now {data.batch_size})")
    if data.clip is not None and case.random is not None:
        paid = np.concatenate([case.random.paid, *([case.played.paid] if case.played else [])])
        beyond = float((np.abs(paid) > data.clip * (1 + 1e-6)).mean())
        if beyond > 0.3 and len(np.unique(np.round(np.clip(paid, -data.clip, data.clip), 6))) < 0.7 * len(
            np.unique(np.round(paid, 6))
        ):
            yield warn(
                92,
                "clipped-reward",
                f"{beyond:.0%} of rewards lie beyond the clip of {data.clip:g}, and learning cannot tell "
                f"them apart",
                f"--config.data.clip None (now {data.clip:g})",
            )
    period = getattr(cfg, "period", 1)
    if (
        isinstance(period, int)
        and getattr(cfg, "target", True)
        and period > max(1, case.updates) / 4
        and case.updates > 100
    ):
        says = f"the target network is copied every {period:,} updates, and there were {case.updates:,}"
        yield warn(
            88, "old-target", says, f"lower --config.period (now {period:,}), or tau 0.01 with period 1"
        )
    tau = getattr(cfg, "tau", None)
    if isinstance(tau, float) and case.updates > 100 and period == 1 and tau * case.updates < 1:
        says = (
            f"targets take {tau:g} of the new weights at each of {case.updates:,} updates, and hardly follow"
        )
        yield warn(88, "old-target", says, f"raise --config.tau (now {tau:g})")


def another_evaluation(case: Case) -> Iterator[Weighed]:
    """Evaluation plays something else than training, or comes to something else."""
    own, seen = case.late("eval/return"), case.late("episode/return")
    if own is None or seen is None:
        return
    gap, size = seen - own, abs(seen) + abs(own)
    fields = case.plan.eval_env_fields
    if fields is not None and dict(fields) != dict(case.plan.env_fields) and abs(gap) > 0.2 * size:
        words = ", ".join(f"{name} {value}" for name, value in fields.items()) or "its usual constants"
        yield warn(
            98,
            "evaluation",
            f"evaluation plays another environment than training ({words}): {own:.4g} there, {seen:.4g} "
            f"in training",
            "leave --eval-env out, or train on what is evaluated (--env.FIELD, --env.randomize.FIELD)",
        )


HARD: tuple[Callable[[Case], Iterator[Weighed]], ...] = (
    stopped,
    grown,
    no_episode,
    few_updates,
    settings,
    another_evaluation,
)
