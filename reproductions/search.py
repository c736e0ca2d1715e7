"""Search without a gradient (B1 to B6): policies for CartPole and Pendulum, and functions whose optimum is known.

CartPole-v1 counts as solved at 475, the most is 500; Gymnasium's own threshold too. The checks train on polyak's own
environments, whose dynamics are Gymnasium's.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import polyak
from polyak.algorithms import cma_es, find, nelder_mead, openai_es
from polyak.drivers.in_graph import InGraph
from polyak.envs.worlds.classic_control import Pendulum
from polyak.interface import OnPolicy
from reproductions.finding import Finding, main, train

SOLVED, SEEDS, NEEDED, EPISODES = 475.0, 5, 4, 100


def solves(algorithm: str, steps: int, **config: Any) -> tuple[polyak.Run, str, bool, str]:
    """Train five seeds on CartPole with the tuned settings, and play 100 episodes without exploration with each.

    Returns the run, the claim in words, whether it holds, and the figure.
    """
    run = train(algorithm, "jax:CartPole-v1", steps=steps, seeds=SEEDS, config=config)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    reached = int((means >= SOLVED).sum())
    which = f"{algorithm} {config}" if config else algorithm
    claim = f"{which}: at least {NEEDED} of {SEEDS} seeds return {SOLVED:g} or more (found {reached})"
    listed = ", ".join(f"{mean:.0f}" for mean in np.sort(means))
    after = f"{steps:,} steps of jax:CartPole-v1, {played(run):,.0f} of them played"
    figure = f"mean return {means.mean():.1f} ({listed}) after {after}"
    return run, claim, reached >= NEEDED, figure


def played(run: polyak.Run) -> float:
    """Environment steps of one seed without the padding after episodes that end early, in the mean."""
    lines = [line for line in run.metrics if line.get("episode/count")]
    return sum(line["episode/count"] * line["episode/length"] for line in lines) / run.plan.seeds


# ---- B1


def hill_climbing() -> Finding:
    """A linear policy, and one of hard threshold units, which has no gradient."""
    _, linear, linear_held, figure = solves("hill_climbing", 200_000)
    settings = {"network": "threshold", "hidden": (16,), "population": 32, "data.episodes": 4}
    _, hard, hard_held, hard_figure = solves("hill_climbing", 1_600_000, **settings)
    return Finding(
        {linear: linear_held, hard: hard_held}, f"linear: {figure}; threshold units: {hard_figure}"
    )


# ---- B2


def rosenbrock(x: Any) -> Any:
    """Sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, which is 0 at (1, ..., 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def simplex_points(cfg: nelder_mead.Config, first: np.ndarray, count: int) -> np.ndarray:
    """The points [count, n] that our Nelder-Mead tries on Rosenbrock's function, in float64."""

    def one(state: Any, _: None) -> tuple[Any, jax.Array]:
        x = nelder_mead.candidate(cfg, nelder_mead.actor(state), jnp.zeros((), jnp.int32))
        return nelder_mead.tell(cfg, state, -rosenbrock(x))[0], x

    with jax.enable_x64(True):
        state = nelder_mead.start(cfg, jnp.asarray(first))
        return np.asarray(jax.jit(lambda state: jax.lax.scan(one, state, None, count))(state)[1])


def simplex() -> Finding:
    """Its points and best values are SciPy's; and it tunes the ten parameters of a linear policy."""
    claims, gaps, cfg = {}, [], nelder_mead.Config(edge=0.3)
    for n, count in ((2, 300), (4, 1_000), (6, 2_500)):
        first = np.linspace(-1.2, 1.0, n)
        found = simplex_points(cfg, first, count)
        vertices = np.concatenate([first[None], first + cfg.edge * np.eye(n)])
        options = {"initial_simplex": vertices, "maxfev": count, "xatol": 0.0, "fatol": 0.0}
        theirs = minimize(rosenbrock, first, method="Nelder-Mead", options=options)
        gap = abs(min(rosenbrock(x) for x in found[: theirs.nfev]) - theirs.fun)
        gaps.append(gap)
        claims[
            f"{n} dimensions: best value after {theirs.nfev} evaluations within 1e-6 of SciPy's ({gap:.1e})"
        ] = gap < 1e-6
    run = train("nelder_mead", "jax:CartPole-v1", steps=2_000_000, seeds=2 * SEEDS)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    claims[
        f"ten parameters of a policy: the median seed returns at least 475 (found {np.median(means):.0f})"
    ] = bool(np.median(means) >= 475)
    return Finding(
        claims,
        f"best values within {max(gaps):.1e} of SciPy's; ten parameters: median return {np.median(means):.0f} "
        f"({means.min():.0f} to {means.max():.0f}) of {2 * SEEDS} seeds after 2,000,000 steps of CartPole",
    )


# ---- B3


def genetic() -> Finding:
    """An MLP on CartPole, and what crossover and mutation do to the spread of the genes."""
    run, claim, held, figure = solves("genetic", 400_000)
    claims = {claim: held}
    crossed = np.mean([line["update/crossed"] for line in run.metrics if "update/crossed" in line])
    claims[f"half of the children have two parents (found {crossed:.2f})"] = bool(abs(crossed - 0.5) < 0.05)
    spread = {}
    for name, crossover, mutation in (
        ("both", 0.5, 1.0),
        ("crossover only", 1.0, 0.0),
        ("neither", 0.0, 0.0),
    ):
        settings = {"crossover": crossover, "mutation": mutation}
        lines = train("genetic", "jax:CartPole-v1", steps=400_000, seeds=SEEDS, config=settings).metrics
        last = max(line["env_steps"] for line in lines)
        spread[name] = np.mean(
            [line["update/spread"] for line in lines if line["env_steps"] == last and "update/spread" in line]
        )
    claims[f"without mutation the genes become equal (spread {spread['crossover only']:.1e})"] = (
        spread["crossover only"] < 0.2 * spread["both"]
    )
    claims[f"with it they do not (spread {spread['both']:.2f})"] = spread["both"] > 0.1
    listed = ", ".join(f"{name} {value:.2g}" for name, value in spread.items())
    return Finding(claims, f"{figure}; spread of a gene at the end: {listed}")


# ---- B4


def cross_entropy() -> Finding:
    """CartPole, with the elite's mean and variance in every line of the log."""
    run, claim, held, figure = solves("cross_entropy", 400_000)
    claims = {claim: held}
    names = ("update/elite_norm", "update/elite_variance")
    lines = [line for line in run.metrics if names[0] in line]
    claims["the elite's mean and variance are logged"] = all(name in line for line in lines for name in names)
    early = np.mean([line[names[1]] for line in lines[:SEEDS]])
    late = np.mean([line[names[1]] for line in lines[-SEEDS:]])
    swung = swinging()
    return Finding(
        claims | swung.claims, f"{figure}; elite variance {early:.2g} to {late:.2g}; {swung.figure}"
    )


def swinging(steps: int = 24_000_000) -> Finding:
    """Pendulum."""
    run = train("cross_entropy", "jax:Pendulum-v1", steps=steps, seeds=SEEDS)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    claim = f"the mean over {SEEDS} seeds is at least -200 (found {means.mean():.1f})"
    figure = f"Pendulum {means.mean():.1f} ({means.min():.1f} to {means.max():.1f}) after {steps:,} steps"
    return Finding({claim: bool(means.mean() >= -200)}, figure)


# ---- B5

# Median evaluations of pycma 4.5.0 until 1e-8, seeds 1 to 9, sigma 0.5 from (0.1, ..., 0.1), its own population:
# where pycma is installed it is run instead.
PYCMA = {
    **{("sphere", 5): 600, ("sphere", 10): 1160, ("sphere", 20): 2220},
    **{("ellipsoid", 5): 1376, ("ellipsoid", 10): 3920, ("ellipsoid", 20): 12312},
    **{("Rosenbrock", 5): 1560, ("Rosenbrock", 10): 4780, ("Rosenbrock", 20): 16524},
}
STARTS, TARGET, MOST = 9, 1e-8, 60_000


def sphere(x: Any) -> Any:
    """Sum x_i^2."""
    return (x**2).sum()


def ellipsoid(x: Any) -> Any:
    """Sum 10^(6 (i - 1) / (n - 1)) x_i^2: the longest axis is a thousand times the shortest."""
    return (10.0 ** (6 * np.arange(len(x)) / (len(x) - 1)) * x**2).sum()


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sphere": sphere,
    "ellipsoid": ellipsoid,
    "Rosenbrock": rosenbrock,
}


def evaluations(function: Callable[[Any], Any], n: int) -> float:
    """Median evaluations of our CMA-ES until the target, over the starts."""
    samples = 4 + int(3 * np.log(n))
    cfg = cma_es.Config(population=samples)

    def generation(carry: tuple) -> tuple:
        state, number, _, key = carry
        x = jax.vmap(lambda i: cma_es.candidate(cfg, cma_es.actor(state), i))(jnp.arange(samples))
        value = jax.vmap(function)(x)
        state, _ = cma_es.tell(cfg, state, -value, jax.random.fold_in(key, number))
        return state, number + 1, value.min(), key

    def until_target(key: jax.Array) -> Any:
        key_start, key_more = jax.random.split(key)
        start = cma_es.start(cfg, jnp.full(n, 0.1), key_start)
        goes_on = lambda carry: (carry[2] > TARGET) & (carry[1] * samples < MOST)  # noqa: E731
        return jax.lax.while_loop(goes_on, generation, (start, 0, jnp.inf, key_more))[1] * samples

    run = jax.jit(until_target)
    return float(np.median([run(jax.random.key(seed)) for seed in range(1, STARTS + 1)]))


def pycmas(name: str, n: int) -> float:
    """The same of pycma, or what is written down of it."""
    try:
        import cma
    except ImportError:
        return PYCMA[name, n]
    counts = []
    for seed in range(1, STARTS + 1):
        options = {"verbose": -9, "ftarget": TARGET, "seed": seed, "maxfevals": MOST}
        search = cma.CMAEvolutionStrategy([0.1] * n, 0.5, options)
        search.optimize(lambda x: FUNCTIONS[name](np.asarray(x)))
        counts.append(search.result.evaluations)
    return float(np.median(counts))


def covariance() -> Finding:
    """Three functions in three sizes, beside pycma."""
    claims, ratios = {}, []
    for name, function in FUNCTIONS.items():
        for n in (5, 10, 20):
            ours, theirs = evaluations(function, n), pycmas(name, n)
            ratios.append(ours / theirs)
            claims[
                f"{name}, {n} dimensions: 1e-8 after {ours:.0f} evaluations, pycma {theirs:.0f} (x {ratios[-1]:.2f})"
            ] = ours < MOST and ours <= 2 * theirs
    _, claim, held, figure = solves("cma_es", 400_000)
    claims[claim] = held
    return Finding(claims, f"{min(ratios):.2f} to {max(ratios):.2f} times pycma's evaluations; {figure}")


# ---- B6


def evaluations_per_second(size: int, generations: int = 5) -> float:
    """Whole episodes of Pendulum, 200 steps each, a second, with so many candidates at once."""
    cfg = openai_es.Config(population=size, hidden=(64, 64), data=OnPolicy(episodes=1))
    env = Pendulum()
    spec = dataclasses.replace(env.spec, num_envs=size)
    driver = InGraph(find("openai_es"), cfg, env, spec, (0,))
    run = driver.advance(driver.start(), 1)
    jax.block_until_ready(run)
    began = time.perf_counter()
    jax.block_until_ready(driver.advance(run, generations))
    return size * generations / (time.perf_counter() - began)


def speed(sizes: tuple[int, ...] = (8, 32, 128, 512)) -> str:
    """Evaluations a second against the size of the population; what more at once gain depends on the device."""
    rates = [evaluations_per_second(size) for size in sizes]
    for size, rate in zip(sizes, rates, strict=True):
        print(f"  population {size:>5}: {rate:,.0f} evaluations/s")
    listed = ", ".join(f"{rate:,.0f}" for rate in rates)
    return f"{listed} evaluations/s with populations of {sizes}"


def evolution() -> Finding:
    """CartPole's published threshold, and how evaluation speeds up with the population."""
    _, claim, held, figure = solves("openai_es", 400_000)
    return Finding({claim: held}, f"{figure}; {speed()}")


def swimmer() -> Finding:
    """Gymnasium's Swimmer, three seeds."""
    run = train("openai_es", "Swimmer-v5", seeds=3)
    means = run.evaluate(20).returns.mean(axis=1)
    listed = ", ".join(f"{mean:.0f}" for mean in np.sort(means))
    claim = f"the mean of 3 seeds is at least 300 (found {means.mean():.1f})"
    figure = f"mean return {means.mean():.1f} ({listed}) after {run.plan.steps:,} steps of Swimmer-v5"
    return Finding({claim: bool(means.mean() >= 300)}, f"{figure}; {speed()}")


if __name__ == "__main__":
    main(
        {
            "B1": hill_climbing,
            "B2": simplex,
            "B3": genetic,
            "B4": cross_entropy,
            "B5": covariance,
            "B6": evolution,
        },
        long={"B6": swimmer},
    )
