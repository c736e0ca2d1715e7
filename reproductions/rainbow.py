"""Rainbow on CartPole, and with each of its six parts taken away (figure 3 of Hessel et al. 2018)."""

from typing import Any

import numpy as np

from reproductions.finding import Finding, main, train

SOLVED, SEEDS, STEPS, EPISODES = 475.0, 5, 50_000, 100
EPSILON = {"epsilon": 1.0, "epsilon_end": 0.04, "epsilon_fraction": 0.16}
WITHOUT: dict[str, dict[str, Any]] = {
    "double": {"double": False},
    "dueling": {"dueling": False},
    "distribution": {"critic": "scalar"},
    "n-step": {"data.n_step": 1},
    "priority": {"data.priority": 0.0},
    "noisy": {"network": "mlp", **EPSILON},
}


def means(config: dict[str, Any]) -> np.ndarray:
    """The mean return of each seed, without exploration."""
    run = train("rainbow", "jax:CartPole-v1", steps=STEPS, seeds=SEEDS, config=config)
    return run.evaluate(EPISODES).returns.mean(axis=1)


def all_six(ablate: bool = False) -> Finding:
    """All six on; in the longer form each of them off as well."""
    found = means({})
    reached = int((found >= SOLVED).sum())
    claims = {f"at least 4 of {SEEDS} seeds return {SOLVED:g} or more (found {reached})": reached >= 4}
    said = [f"all six {found.mean():.0f}"]
    for part, config in WITHOUT.items() if ablate else ():
        said.append(f"without {part} {means(config).mean():.0f}")
    return Finding(
        claims, f"mean return over {SEEDS} seeds after {STEPS:,} steps of jax:CartPole-v1: {', '.join(said)}"
    )


if __name__ == "__main__":
    main({"C11": all_six}, long={"C11": lambda: all_six(ablate=True)})
