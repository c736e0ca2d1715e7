"""Episodes that are played with what was learned, and what they earned."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyak.runs.session import Session, close
from polyak.runs.values import whole
from polyak.show.curve import interquartile_mean


@dataclass(frozen=True)
class Evaluation:
    """Returns [S, E] of E episodes for each of S seeds."""

    returns: np.ndarray
    lengths: np.ndarray
    measures: dict[str, np.ndarray]
    seeds: list[int]
    ratios: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # as of `Spec`

    def ratio(self, name: str) -> tuple[float, float, float]:
        """A ratio over all episodes, NaN where it is one by nothing; the sum above, the sum below."""
        above, below = (float(self.measures[part].sum()) for part in self.ratios[name])
        return above / below if below else float("nan"), above, below

    def summary(self) -> dict[str, Any]:
        """One JSON object: over all episodes, and for each seed."""
        per_seed = [
            {"seed": seed, "mean_return": float(row.mean()), "std_return": float(row.std())}
            for seed, row in zip(self.seeds, self.returns, strict=True)
        ]
        return {
            "mean_return": float(self.returns.mean()),
            "std_return": float(self.returns.std()),
            "iqm_return": float(interquartile_mean(self.returns.mean(axis=1))),
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "episodes": int(self.returns.size),
            "env_steps": int(self.lengths.sum()),
            **{name: float(value.mean()) for name, value in self.measures.items()},
            **{name: self.ratio(name)[0] for name in self.ratios},
            "per_seed": per_seed,
        }


def play(
    session: Session,
    actor: Any,
    episodes: int,
    seed: int | None,
    sample: bool,
    limit: int | None = None,
    warn: Callable[[str], Any] = warnings.warn,
) -> Evaluation:
    """Play so many episodes with an actor [S, ...] on environments that are made for this."""
    first = None if seed is None else whole("seed", seed, 0)
    limit = None if limit is None else whole("limit", limit, 1)
    evaluator = session.make_evaluator(whole("episodes", episodes, 1), first, sample, limit)
    try:
        played = evaluator(actor)
    finally:
        close(evaluator, warn)
    assert played is not None  # nobody stops it
    if played.cut:
        warn(f"{played.cut} episodes were cut at {evaluator.limit:,} steps (--limit)")
    seeds, ratios = list(session.plan.all_seeds), session.env_spec.ratios
    return Evaluation(played.total, played.length, played.measures, seeds, ratios)
