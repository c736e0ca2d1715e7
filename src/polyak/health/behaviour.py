"""Why a run does not learn, from what it does: symptoms that count only where it has not learned."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from polyak.health.case import Case
from polyak.health.finding import Finding
from polyak.health.symptoms import Weighed, rates, warn
from polyak.interface import Discrete
from polyak.parts.networks.layers import features_of
from polyak.parts.networks.mlp import MLP

HIGH_LR, LOW_LR = 0.03, 1e-6
WIDE = 2.4  # nats of a Gaussian whose sigma is 2.7 times half the action's range
ENVIRONMENT = {  # findings of `check_env` that explain why nothing is learned
    "nan": 96,
    "nan-reward": 96,
    "final-observation": 90,
    "both-ends": 90,
    "global-random": 70,
    "leak": 80,
    "shared": 80,
    "determinism": 70,
    "no-end": 94,
    "action-ignored": 97,
    "constant": 93,
    "scale": 89,
    "exploding": 88,
    "reward-scale": 91,
    "limit-as-end": 75,
    "stale": 74,
    "small": 84,
    "reward-cumulative": 80,
    "action-clipped": 73,
    "action-bounds": 60,
    "one-action": 97,
    "goal-reward": 85,
    "observation": 92,
    "reward": 92,
    "bounds": 40,
}
LEAST = 35  # of what else check-env warns of
HARMLESS = ("speed", "memory")  # to what is learned
STILL = 0.05  # of all that was gained, in the second half of a run that is improving
WRAPPED = {"scale": "normalize_obs", "small": "normalize_obs", "reward-scale": "normalize_reward"}


def environment(case: Case) -> Iterator[Weighed]:
    """Findings of `check_env` on the environment."""
    for finding in case.report.findings if case.report else ():
        weight = ENVIRONMENT.get(finding.name, LEAST)
        if finding.level == "note" or finding.name in HARMLESS or WRAPPED.get(finding.name) in case.plan.wrap:
            continue
        yield weight, Finding(finding.level, finding.name, f"in its environment {finding.says}", finding.fix)


def unreached(case: Case) -> Iterator[Weighed]:
    """Exploration never finds anything that pays."""
    found = case.series("episode/return")
    if len(found) < 3 or case.random is None or not np.isfinite(found).all():
        return
    if (
        np.ptp(found) == 0
        and np.ptp(case.random.returns) == 0
        and abs(found[0] - case.random.returns[0]) < 1e-3 * (1 + abs(found[0]))
    ):
        yield warn(
            90,
            "unreached",
            f"every episode of training returned {found[0]:.4g}, as chance does: exploration never "
            f"reached what pays",
            "explore more (a larger entropy, epsilon or noise), train longer, reward progress, or begin "
            "near the goal",
        )


def moved(case: Case) -> Iterator[Weighed]:
    """A policy that hardly moves, or one that jumps."""
    kl = case.late("update/kl")
    if kl is not None and kl > 0.05 and not hasattr(case.cfg, "kl_target"):  # which steers it by itself
        clip = case.late("update/clip_fraction")
        more = f", and {clip:.0%} of ratios are clipped" if clip is not None else ""
        yield warn(
            82,
            "large-steps",
            f"an update moves the policy by a KL of {kl:.3g} nats (0.01 to 0.02 is usual){more}",
            f"lower the learning rate ({rates(case)}), or fewer epochs",
        )
    if case.state is None or case.first_state is None or case.updates < 20:
        return
    share = change(case.first_state, case.state, case)
    if share is not None and share < 2e-3:
        yield warn(
            87,
            "stands-still",
            f"{case.updates:,} updates changed what acts by {share:.1e} of its size: it is as it began",
            f"raise the learning rate ({rates(case)})",
        )


def change(before: Any, after: Any, case: Case) -> float | None:
    """How far what acts is from where it began, relative to its size."""
    actors = [case.algorithm.actor(state) for state in (before, after)]
    leaves = [
        [np.asarray(x, np.float64) for x in jax.tree.leaves(a) if np.asarray(x).dtype.kind == "f"]
        for a in actors
    ]
    size = np.sqrt(sum((x**2).sum() for x in leaves[0]))
    if not size or [x.shape for x in leaves[0]] != [x.shape for x in leaves[1]]:
        return None
    return float(np.sqrt(sum(((x - y) ** 2).sum() for x, y in zip(*leaves, strict=True))) / size)


def learning_rate(case: Case) -> Iterator[Weighed]:
    """Learning rates far from what works."""
    for entry in dataclasses.fields(case.cfg):
        if entry.name != "lr" and not entry.name.endswith("_lr"):
            continue
        lr = float(getattr(case.cfg, entry.name))
        if lr > HIGH_LR and getattr(case.cfg, "rule", "adam") == "adam":
            says = (
                f"the learning rate {entry.name} is {lr:g}, and Adam moves every weight by about that "
                f"much at each update"
            )
            yield warn(
                84, "learning-rate", says, f"lower --config.{entry.name} (now {lr:g}), to 3e-4 for instance"
            )
        elif lr < LOW_LR:
            says = (
                f"the learning rate {entry.name} is {lr:g}: after {case.updates:,} updates weights moved "
                f"by {lr * case.updates:.1g}"
            )
            yield warn(
                88, "learning-rate", says, f"raise --config.{entry.name} (now {lr:g}), to 3e-4 for instance"
            )


def exploration(case: Case) -> Iterator[Weighed]:
    """Too little exploration, or nothing else."""
    if case.played is None or case.spec is None:
        return
    action, other = case.played.action, case.played.other
    if isinstance(case.spec.action, Discrete):
        yield from discrete_exploration(case, float((action != other).mean()), case.spec.action.n)
        return
    entropy, size = case.late("update/entropy"), case.spec.action.size
    # the entropy of a squashed policy, which has a temperature, is at most log 2 for each entry of the action
    if entropy is not None and entropy / size > (0.6 if case.temperature else WIDE):
        name = case.temperature or "entropy"
        says = f"the policy's entropy is {entropy / size:.3g} nats for each entry of an action: it acts by chance"
        yield warn(86, "uniform", says, f"lower --config.{name} (now {getattr(case.cfg, name, 0.0):g})")
    spread = float(np.sqrt(((np.clip(other, -1, 1) - np.clip(action, -1, 1)) ** 2).mean()))
    if spread < 0.02:
        names = noise_fields(case)
        yield warn(
            85,
            "no-exploration",
            f"exploration moves actions by {spread:.2g} of half their range: nothing new is tried",
            f"raise {names}" if names else "raise the exploration noise",
        )


def discrete_exploration(case: Case, share: float, n: int) -> Iterator[Weighed]:
    """The same for integers, of which a share is not the policy's best."""
    most = (n - 1) / n
    entropy, weight = case.late("update/entropy"), float(getattr(case.cfg, "entropy", 0.0) or 0.0)
    if share > 0.9 * most and hasattr(case.cfg, "epsilon_end"):
        yield warn(
            89,
            "random",
            f"{share:.0%} of actions in training are random to the end ({most:.0%} would be chance alone)",
            f"lower --config.epsilon_end (now {case.cfg.epsilon_end:g}) or epsilon_fraction (now "
            f"{case.cfg.epsilon_fraction:g})",
        )
    elif entropy is not None and entropy > 0.97 * np.log(n):
        fix = (
            f"lower --config.entropy (now {weight:g})"
            if weight > 0.02
            else f"raise the learning rate ({rates(case)})"
        )
        says = (
            f"the policy's entropy stayed at {entropy:.3g} of at most {np.log(n):.3g} nats: it acts by chance"
        )
        yield warn(86 if weight > 0.02 else 70, "uniform", says, fix)
    elif entropy is not None and entropy < 0.02 * np.log(n):
        yield warn(
            80,
            "collapsed",
            f"the policy's entropy is {entropy:.2g} of at most {np.log(n):.3g} nats: it always does the same",
            f"raise --config.entropy (now {weight:g}), or lower the learning rate ({rates(case)})",
        )
    elif entropy is None and share < 1e-9 and hasattr(case.cfg, "epsilon_end"):
        yield warn(
            85,
            "no-exploration",
            "training always takes the action that looks best: nothing new is tried",
            f"raise --config.epsilon_end (now {case.cfg.epsilon_end:g})",
        )


def noise_fields(case: Case) -> str:
    """The settings of exploration that this algorithm has, as they are said."""
    known = ("exploration", "sigma", "log_sigma", case.temperature, "entropy")
    names = [n for n in known if n and hasattr(case.cfg, n)]
    return ", ".join(f"--config.{n} (now {getattr(case.cfg, n)})" for n in names)


def one_answer(case: Case) -> Iterator[Weighed]:
    """A policy that does not look, or one that only pushes against the bounds."""
    if case.played is None or len(case.played.action) < 50:
        return
    action = case.played.action
    if not case.discrete:
        bound, still = float((np.abs(action) > 0.99).mean()), float(action.std(axis=0).max())
        if bound > 0.9 and still < 0.2:
            yield warn(
                79,
                "saturated",
                f"{bound:.0%} of actions are at a bound, the same whatever is observed",
                f"lower the learning rate of the actor ({rates(case)}), or --wrap normalize_obs",
            )
        elif still < 1e-3:
            says = (
                f"the action hardly depends on what is observed: it varies by {still:.1g} of half its range"
            )
            yield warn(
                72,
                "one-action",
                says,
                f"look at the learning rate ({rates(case)}) and the scale of observations",
            )
    elif len(np.unique(action)) == 1:
        says = f"it always takes action {int(np.ravel(action)[0])}, whatever is observed"
        yield warn(
            71, "one-action", says, f"look at the learning rate ({rates(case)}) and the scale of observations"
        )


def values(case: Case) -> Iterator[Weighed]:
    """Value functions that explain nothing, or promise what never comes."""
    explained = case.late("update/explained_variance")
    if explained is not None and explained < 0.02:
        weight = float(getattr(case.cfg, "value_loss", 1.0))
        fix = (
            f"raise --config.value_loss (now {weight:g})"
            if weight < 0.01
            else f"raise the critic's learning ({rates(case)})"
        )
        yield warn(
            90 if weight < 0.01 else 66,
            "value-function",
            f"the value function explains {explained:.2g} of the variance of returns "
            "(1 is all, 0 or less is nothing)",
            fix,
        )
    q = case.late("update/q")
    if q is None or case.played is None or case.random is None or case.plan.wrap:
        return
    gamma = float(case.cfg.gamma)
    known = np.concatenate([case.played.discounted(gamma), case.random.discounted(gamma)])
    clip = case.cfg.data.clip
    paid = np.concatenate([case.played.paid, case.random.paid])
    paid = paid if clip is None else np.clip(paid, -clip, clip)
    top = max(0.0, float(paid.max())) / max(1e-3, 1 - gamma)
    if q > 1.2 * top + 0.1 * np.ptp(known) + 1e-6 and q > known.max() + 0.5 * np.ptp(known):
        yield warn(
            83,
            "overestimation",
            f"Q is {q:.4g} on average, and no return that was seen is above {known.max():.4g}: it "
            f"promises what "
            "never comes",
            f"slow the targets (tau, period), lower the learning rate ({rates(case)}), two critics (twin)",
        )


def dead_units(case: Case) -> Iterator[Weighed]:
    """Layers of rectified units of which most are silent on all that is observed."""
    if case.played is None or case.state is None:
        return
    nets = [
        n for n in jax.tree.leaves(case.state, is_leaf=lambda x: isinstance(x, MLP)) if isinstance(n, MLP)
    ]
    worst = 0.0
    for net in nets:
        if net.activation == "relu" and net.layout[0] in ("box", "discrete"):
            try:
                worst = max(worst, *silent(net, case.played.obs))
            except (TypeError, ValueError):  # a critic, which reads actions too
                continue
    if worst > 0.9:
        yield warn(
            81,
            "dead-units",
            f"{worst:.0%} of the units of a layer are 0 for all that is observed: they learn no more",
            f"lower the learning rate ({rates(case)}), --wrap normalize_obs, or --config.activation tanh "
            f"where there is one",
        )


def silent(net: Any, obs: Any) -> list[float]:
    """Share of silent units of each hidden layer."""
    x, found = np.asarray(features_of(net.layout, obs)), [0.0]
    for layer in net.layers[:-1]:
        x = np.maximum(np.asarray(layer(x)), 0)
        found.append(float((x <= 0).all(axis=0).mean()))
    return found


def without_exploring(case: Case) -> Iterator[Weighed]:
    """Evaluation, without exploration, is far below training."""
    own, seen = case.late("eval/return"), case.late("episode/return")
    if own is None or seen is None or case.random is None or case.plan.eval_env_fields is not None:
        return
    spread = max(float(case.random.returns.std()), 1e-6)
    if seen - own > 3 * spread and seen - own > 0.4 * abs(seen):
        yield warn(
            62,
            "evaluation",
            f"without exploration it earns {own:.4g}, in training {seen:.4g}: its best single action is "
            f"not what it "
            "learned",
            "evaluate with --sample, anneal the exploration, or train longer",
        )


def uneven(case: Case) -> Iterator[Weighed]:
    """Seeds of which some learn and others do not."""
    if case.plan.seeds < 2 or case.random is None:
        return
    last = {line["seed"]: line["eval/return"] for line in case.lines if "eval/return" in line}
    ends = {seed: float("nan") if value is None else float(value) for seed, value in sorted(last.items())}
    chance, spread = float(case.random.returns.mean()), float(case.random.returns.std())
    well = sum(value > chance + spread for value in ends.values())
    if 0 < well < len(ends):
        said = ", ".join(f"seed {seed}: {value:.4g}" for seed, value in ends.items())
        yield warn(
            45,
            "uneven",
            f"{well} of {len(ends)} seeds end far above chance ({chance:.4g}), the others do not: {said}",
            f"lower the learning rate ({rates(case)}), explore more, or train longer; compare algorithms "
            f"with ten seeds",
        )


def improving(case: Case) -> Iterator[Weighed]:
    """It was still getting better when it ended."""
    found = case.returns[np.isfinite(case.returns)]
    if len(found) >= 4 and case.random is not None:
        spread = max(float(case.random.returns.std()), 1e-6)
        before, gain = found[: len(found) // 2].max(), np.ptp(found)
        if found[-2:].mean() > before + STILL * gain and found[-1] - found[0] > spread:
            says = f"it was still improving when it ended: {found[0]:.4g}, ..., {found[-1]:.4g}"
            plan, reached = case.plan, case.run.reached
            more = (
                f"--{plan.unit} {2 * plan.budget}"
                if reached is None
                else f"--stop-at R, above {plan.stop_at:g}"
            )
            yield 30, Finding("note", "improving", says, f"polyak resume {case.run.path} {more}")


SOFT: tuple[Callable[[Case], Iterator[Weighed]], ...] = (
    *(
        environment,
        unreached,
        moved,
        learning_rate,
        exploration,
        one_answer,
        values,
        dead_units,
        without_exploring,
        uneven,
    ),
    improving,
)
