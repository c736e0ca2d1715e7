"""When the noise of noisy networks is drawn (Fortunato et al. 2018, arXiv:1706.10295, section 3).

Around every algorithm, and without effect where none of its networks is noisy; it has no state of its own.
"""

from typing import Any

import jax

from polyak.interface import Algorithm, Array, Batch, Spec, Tree, Update
from polyak.parts.networks.noisy import is_noisy, quiet, redraw


def draw_noise(algorithm: Algorithm) -> Algorithm:
    """The algorithm with noise that is drawn anew after each update.

    From replay it is drawn for each call of `act` too. On policy a rollout and the update that it is for have the same
    noise, and so the same policy. Without exploring the means act.
    """

    def act(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> Tree:
        if is_noisy(actor):
            if not explore:
                actor = quiet(actor)
            elif cfg.data.replays:
                key, key_noise = jax.random.split(key)
                actor = redraw(actor, key_noise)
        return algorithm.act(cfg, spec, actor, memory, obs, key, explore)

    def update(cfg: Any, spec: Spec, state: Tree, batch: Batch, key: Array) -> Update:
        if not is_noisy(state):
            return algorithm.update(cfg, spec, state, batch, key)
        key, key_noise = jax.random.split(key)
        made = algorithm.update(cfg, spec, state, batch, key)
        return made._replace(state=redraw(made.state, key_noise))

    return algorithm._replace(act=act, update=update)
