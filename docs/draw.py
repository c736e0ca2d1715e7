"""The pictures of the pages, from the same programs that check the rows: `python docs/draw.py [NAME ...]`."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

INK, PALE = "#22262e", "#8a919e"
BLUE, ORANGE, GREEN, RED = "#2563c9", "#d97a26", "#2f8f5b", "#c0392b"


def figure(*titles: str, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A row of quiet axes, one for each title."""
    made = Figure(figsize=(3.7 * len(titles), height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    axes = list(made.subplots(1, len(titles), squeeze=False)[0])
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, loc="left", fontsize=9, color=INK)
        one.tick_params(labelsize=8, colors=INK, length=0)
        one.grid(color="#e4e7ec", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right", "left"]].set_visible(False)
        one.spines["bottom"].set_color("#b6bcc8")
        one.xaxis.label.set(size=8, color=INK)
        one.yaxis.label.set(size=8, color=INK)
    return made, axes


def estimators() -> Figure:
    """Variances; what the pathwise estimator says of a step; the error of finite differences."""
    from polyak.lab import estimators as lab
    from reproductions import estimators as rows

    made, (left, middle, right) = figure(
        "variance of one sample", "a step reward: dJ/dmu", "finite differences: relative error"
    )
    names = ("likelihood ratio", "reward-to-go", "baseline", "advantage")
    for case, colour, shift in (("regulator", BLUE, -0.2), ("small MDP", ORANGE, 0.2)):
        shown = [*names, "pathwise"] if case == "regulator" else names
        first = rows.found(case, names[0]).variance
        shares = [rows.found(case, name).variance / first for name in shown]
        left.barh(np.arange(len(shares)) + shift, shares, 0.36, color=colour, label=case)
    left.set(xscale="log", yticks=range(5), yticklabels=[*names, "pathwise"])
    left.invert_yaxis()
    left.set_xlabel("relative to the likelihood ratio's")

    means, task = np.linspace(-2, 3, 41), lab.Bandit("step", at=0.7)
    exact = [lab.flatten(task.exact(lab.gaussian([[m]], 1.0)))[0] for m in means]
    middle.plot(means, exact, color=PALE, label="exact")
    some = means[::5]
    for name, marker, colour in (("likelihood ratio", "o", BLUE), ("pathwise", "x", RED)):
        at = [lab.estimate(lab.EVERY[name], task, lab.gaussian([[m]], 1.0), 10_000).mean[0] for m in some]
        middle.plot(some, at, marker, color=colour, markersize=4, label=name)
    middle.set_xlabel("mu; the step is at 0.7")

    for common, colour, name in ((True, GREEN, "common numbers"), (False, RED, "numbers of their own")):
        right.plot(rows.REPEATS, rows.errors_by_repeats(common), "o-", color=colour, markersize=4, label=name)
    right.set(xscale="log", yscale="log", xlabel="repeats")
    for one in (left, middle, right):
        one.legend(fontsize=7, frameon=False)
    return made


def objectives() -> Figure:
    """The two policies of the aliased gridworld; the course of greedy and of bounded steps."""
    from polyak.lab import worlds
    from reproductions import objectives as rows

    made, (left, middle, right) = figure(
        "aliased gridworld: chance of the goal", "two doors: probability of door 0", "actions that change"
    )
    best, world = rows.best_deterministic(), worlds.aliased_gridworld()
    left.bar(np.arange(5) - 0.2, rows.reaches_goal(world, np.eye(4)[best.policy]), 0.36, color=ORANGE,
             label="best deterministic")  # fmt: skip
    left.bar(np.arange(5) + 0.2, rows.reaches_goal(world, rows.learned(0)), 0.36, color=BLUE, label="learned")
    left.set_xlabel("cell where it begins; 1 and 3 look alike")
    left.set_ylim(0, 1.3)
    for greedy, colour, name in ((True, ORANGE, "greedy"), (False, BLUE, "KL <= 0.01")):
        course = rows.course(greedy)
        middle.plot(course.first[:40], color=colour, label=name)
        right.plot(course.moved[:40], color=colour, label=f"{name}: total variation")
    right.plot(rows.course(True).change[:40], color=PALE, label="greedy: change of V")
    for one in (middle, right):
        one.set_xlabel("iteration")
        one.set_ylim(-0.05, 1.45)
    for one in (left, middle, right):
        one.legend(fontsize=7, frameon=False, loc="upper right")
    return made


def improvement() -> Figure:
    """Step sizes of REINFORCE; the surrogate's error and its bound; the variance of ratios."""
    from reproductions import improvement as rows

    made, (left, middle, right) = figure(
        "a chain: value while REINFORCE learns", "error of the surrogate", "variance of ratio x advantage"
    )
    for lr, colour in ((0.1, PALE), (1.0, BLUE), (30.0, RED)):
        for seed in range(rows.SEEDS):
            name = f"step size {lr:g}" if seed == 0 else None
            left.plot(rows.climbed(lr, seed)[0], color=colour, linewidth=0.8, alpha=0.7, label=name)
    left.set_xlabel("step")
    _, _, kl, error, bound, variance = rows.surrogate_errors()
    middle.loglog(kl.ravel(), error.ravel(), ".", color=BLUE, markersize=2, label="error")
    middle.loglog(kl.ravel(), bound.ravel(), ".", color=PALE, markersize=2, label="Schulman's bound")
    right.loglog(kl.ravel(), variance.ravel(), ".", color=ORANGE, markersize=2)
    for one in (middle, right):
        one.set_xlabel("largest KL(old || new) over states")
    for one in (left, middle):
        one.legend(fontsize=7, frameon=False)
    return made


def models() -> Figure:
    """Count models against their samples; gaps beside their bound; Q-planning."""
    from reproductions import models as rows

    made, (left, middle, right) = figure(
        "count model: total variation", "simulation lemma", "Q-planning: relative error"
    )
    errors = rows.count_errors()
    left.loglog(rows.SIZES, errors, color=BLUE, linewidth=0.6, alpha=0.5)
    left.loglog(
        rows.SIZES, errors[-1].mean() * (np.array(rows.SIZES) / rows.SIZES[-1]) ** -0.5, "--", color=INK
    )
    left.set_xlabel("transitions; dashed: n^-1/2")
    gap, _, bound, _ = rows.gaps().T
    middle.loglog(bound, np.abs(gap), ".", color=BLUE, markersize=3)
    middle.loglog(bound, bound, color=PALE)
    middle.set(xlabel="bound", ylabel="|gap|")
    right.loglog((3_000, 30_000, 300_000), rows.q_errors(), "o-", color=GREEN, markersize=3)
    right.set_xlabel("steps")
    return made


def lane() -> Figure:
    """What the camera sees 25 m after the start of 24 episodes, each of its pixels 2 x 2."""
    import jax

    from polyak.envs.find import find
    from polyak.envs.worlds.road_view import Camera, paint

    env, keys = find("jax:Lane"), jax.random.split(jax.random.key(3), 24)
    road, car = jax.jit(jax.vmap(env.reset))(keys)[0]
    camera = Camera(env.height, env.width, env.field_of_view, env.pitch)
    places = car.replace(progress=car.progress + 25)
    seen = jax.vmap(lambda road, car: paint(camera, env.camera_height, road, car))(road, places)
    rows = np.asarray(seen).reshape(4, 6, env.height, env.width, 3).swapaxes(1, 2)
    picture = rows.reshape(4 * env.height, 6 * env.width, 3)
    picture = picture.repeat(2, axis=0).repeat(2, axis=1)
    made = Figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100), dpi=100)
    FigureCanvasAgg(made)
    made.figimage(picture)
    return made


def parkour() -> Figure:
    """The ways of a runner who sees and of one who does not, over the same courses."""
    from polyak.envs.worlds.parkour import Parkour
    from reproductions import parkour as rows

    courses, apart = 8, 2.2
    made, axes = figure("seeing", "blind", height=4.2)
    made.set_size_inches(11, 4.2)
    x = np.linspace(-0.5, 40, 8_101)
    for one, blind in zip(axes, (False, True), strict=True):
        run = rows.learned("blind" if blind else "seeing", steps=rows.STEPS, seeds=1)
        cleared = 0
        for course in range(courses):
            walked, (begins, length, height), fell = rows.path(run, Parkour(blind=blind), course)
            inside, level = (x[:, None] >= begins) & (x[:, None] <= begins + length), -apart * course
            one.fill_between(x, level - 0.7, level + (inside * height).sum(axis=1).clip(-0.7), color="#cdbfae",
                             linewidth=0)  # fmt: skip
            one.plot(walked[:, 0], level + walked[:, 1], color=BLUE, linewidth=1.1)
            if fell:
                one.plot(
                    walked[-1, 0], level + walked[-1, 1], "x", color=RED, markersize=6, markeredgewidth=2
                )
            cleared += int((begins + length < walked[-1, 0]).sum())
        one.set_title(
            f"{one.get_title('left')}: {cleared} obstacles in {courses} courses", loc="left", fontsize=9
        )
        one.set(xlim=(-0.5, 40), ylim=(level - 0.7, 1.3), yticks=[], xlabel="m")
        one.grid(visible=False)
    return made


PICTURES: dict[str, Callable[[], Figure]] = {
    "estimators": estimators,
    "objectives": objectives,
    "improvement": improvement,
    "models": models,
    "lane": lane,
    "parkour": parkour,
}


def main(names: list[str]) -> None:
    """Draw the pictures with these names, or all."""
    for name in names or PICTURES:
        path = ROOT / "docs" / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        PICTURES[name]().savefig(path, facecolor="white", metadata={"Software": None})
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
