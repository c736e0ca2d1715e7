"""Tree search inside a learned model, by mctx: PUCT, or Gumbel's."""

import importlib.util
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polyak.interface import Array, Tree


class PUCT(NamedTuple):
    """Settings of the search of Schrittwieser et al. 2020 (arXiv:1911.08265), appendix B."""

    alpha: Any  # of the Dirichlet noise at the root
    share: Any  # of that noise in the prior at the root
    c_1: Any
    c_2: Any


def installed() -> bool:
    """Whether mctx is."""
    return importlib.util.find_spec("mctx") is not None


def latent_search(
    model: Any, obs: Tree, key: Array, gamma: float, simulations: int, puct: PUCT | None, heat: Any
) -> tuple[Array, Array, Array]:
    """Action [N], improved policy pi [N, A] and root value nu [N] of a search from each observation.

    model  a LatentModel; no rule is asked but an observation's part `legal`, at the root
    gamma  negative where the other player moves next
    puct   None: the search of Gumbel MuZero (Danihelka et al. 2022, ICLR)
    heat   [N] T of N(a)^(1/T), from which PUCT's action is drawn, or the scale of Gumbel's noise; None: no noise
    """
    import mctx

    def inside(model: Any, key: Array, action: Array, hidden: Array) -> tuple[Any, Array]:
        hidden, reward = model.imagine(hidden, action)
        logits, value = model.predict(hidden)
        said = {"reward": model.number(reward), "value": model.number(value), "prior_logits": logits}
        said["discount"] = jnp.full(action.shape, gamma)
        return mctx.RecurrentFnOutput(**said), hidden  # pyright: ignore

    hidden = model.represent(obs)
    logits, value = model.predict(hidden)
    illegal = obs["legal"] <= 0 if isinstance(obs, dict) and "legal" in obs else None
    root = mctx.RootFnOutput(prior_logits=logits, value=model.number(value), embedding=hidden)  # pyright: ignore
    call = model, jax.random.key_data(key), root, inside, simulations, illegal
    warm: Any = 0.0 if heat is None else heat[:, None]
    if puct is None:
        completed = partial(mctx.qtransform_completed_by_mix_value, rescale_values=not model.bounded)
        found = mctx.gumbel_muzero_policy(*call, qtransform=completed, gumbel_scale=warm)
    else:
        known = partial(mctx.qtransform_by_min_max, min_value=-1.0, max_value=1.0)
        found = mctx.muzero_policy(
            *call,
            qtransform=known if model.bounded else normalized,
            dirichlet_alpha=puct.alpha,
            dirichlet_fraction=0.0 if heat is None else puct.share,
            pb_c_init=puct.c_1,
            pb_c_base=puct.c_2,
            temperature=warm,
        )
    return found.action.astype(jnp.int32), found.action_weights, found.search_tree.summary().value


def normalized(tree: Any, node: Array) -> Array:
    """Q(s, a) of a node [A], between the least and the largest of the whole tree; 0 where nothing was tried: eq. 5."""
    tried = tree.children_visits > 0
    q = tree.children_rewards + tree.children_discounts * tree.children_values
    low, high = jnp.where(tried, q, jnp.inf).min(), jnp.where(tried, q, -jnp.inf).max()
    span = jnp.where(high > low, high - low, 1.0)
    return jnp.where(tried[node], (q[node] - low) / span, 0.0)
