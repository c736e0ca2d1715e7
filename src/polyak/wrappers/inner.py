"""An algorithm around another: everything that a wrapper does not change."""

from collections.abc import Callable
from typing import Any

from polyak.interface import Algorithm, Array, Spec, Tree


def around(
    algorithm: Algorithm,
    init: Callable,
    act: Callable,
    update: Callable,
    observe: Callable,
    gradient: Callable,
    reward: Callable | None = None,
    value: Callable | None = None,
) -> Algorithm:
    """The record of a wrapper whose state has the fields `inner` and `moments`.

    reward  (cfg, spec, actor, reward) -> reward, in place of the inner algorithm's own
    value   (cfg, spec, state, obs, action) -> value; called only where the inner algorithm has one
    """

    def actor(state: Any) -> Tree:
        return algorithm.actor(state.inner), state.moments

    def apply(cfg: Any, spec: Spec, state: Any, grads: Tree) -> Any:
        assert algorithm.apply is not None
        return state.replace(inner=algorithm.apply(cfg, spec, state.inner, grads))

    def inner_reward(cfg: Any, spec: Spec, actor: Tree, reward: Array) -> Array:
        return algorithm.reward(cfg, spec, actor[0], reward)

    return algorithm._replace(
        init=init,
        actor=actor,
        act=act,
        update=update,
        observe=observe,
        gradient=gradient if algorithm.gradient else None,
        apply=apply if algorithm.apply else None,
        reward=reward or inner_reward,
        value=value if algorithm.value else None,
    )
