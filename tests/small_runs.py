"""Runs of PPO that are over in a moment, for tests of what happens around learning."""

from typing import Any


def small_ppo(rows: int = 8, **more: Any) -> dict[str, Any]:
    """The config of one gradient step on each rollout of so many rows; of linear networks, unless `hidden` is given."""
    layers = {} if "hidden" in more else {"network": "linear"}
    return {"data.steps": rows, "minibatch": rows, "epochs": 1, **layers, **more}
