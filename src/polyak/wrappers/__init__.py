"""Wrappers: from an algorithm to an algorithm that sees other observations or rewards."""

from collections.abc import Callable
from functools import partial

from polyak.interface import Algorithm
from polyak.wrappers.freeze import freeze
from polyak.wrappers.noise import draw_noise
from polyak.wrappers.normalize_obs import normalize_obs
from polyak.wrappers.normalize_reward import normalize_reward

__all__ = ["WRAPPERS", "draw_noise", "freeze", "normalize_obs", "normalize_reward"]

WRAPPERS: dict[str, Callable[..., Algorithm]] = {
    "normalize_obs": normalize_obs,
    # a number that varies by less than 0.01 is not blown up: replaced goals differ there from those that were asked for
    "normalize_goals": partial(normalize_obs, clip=5.0, eps=1e-4),
    "normalize_reward": normalize_reward,
}
