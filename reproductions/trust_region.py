"""Natural gradients and trust regions: NPG (F8), TRPO (F9) and PPO's adaptive KL penalty (F10)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.algorithms import npg
from polyak.interface import Box, Discrete, Spec
from polyak.parts.natural import conjugate_gradient, fisher_product
from reproductions.finding import Finding, main, train

STEPS, SEEDS = 40_960, 3
SPEC = Spec(Box((3,)), Discrete(4))


def updates_of(algorithm: str, **config: Any) -> tuple[list[dict[str, Any]], int]:
    """Every update's metrics while it learns CartPole, and how many environment steps one takes."""
    per = 8 * config["data.steps"]
    run = train(
        algorithm,
        "jax:CartPole-v1",
        steps=STEPS,
        seeds=SEEDS,
        num_envs=8,
        eval_every=per,
        checkpoint_every=STEPS,
        config=config,
    )
    return [line for line in run.metrics if "update/kl" in line], per


def trpo() -> Finding:
    """Every accepted step lies within delta, improves the surrogate, and solves most of its linear equations."""
    delta = 0.01
    lines, per = updates_of("trpo", **{"data.steps": 128, "delta": delta})
    kl, gain, residual = (
        np.array([line[f"update/{n}"] for line in lines]) for n in ("kl", "surrogate", "residual")
    )
    accepted = np.array([line["update/accepted"] for line in lines]) == 1
    wanted = SEEDS * (STEPS // per)
    claims = {
        f"each of {wanted} updates is looked at by itself": len(lines) == wanted,
        f"KL <= delta = {delta} after every step (largest {kl.max():.5f})": bool(
            (kl <= delta * (1 + 1e-4)).all()
        ),
        f"the surrogate improves in every accepted step (least gain {gain[accepted].min():.1e})": bool(
            (gain[accepted] > 0).all()
        ),
        f"at least 90 % of the steps are accepted (found {accepted.mean():.0%})": accepted.mean() >= 0.9,
        f"conjugate gradients leave less than the whole gradient (median {np.median(residual):.1e})": bool(
            (residual < 1).all()
        ),
    }
    return Finding(
        claims,
        f"largest KL {kl.max():.5f} of {delta}, {accepted.mean():.0%} of {len(lines)} steps accepted, median residual "
        f"{np.median(residual):.1e}",
    )


def adaptive() -> Finding:
    """Beta is halved below d_targ / 1.5 and doubled above 1.5 d_targ, exactly; the divergence stays in a band."""
    target = 0.01
    lines, _ = updates_of("ppo_kl", **{"data.steps": 128, "minibatch": 256, "kl_target": target})
    wrong, inside, count = 0, [], 0
    for seed in range(SEEDS):
        beta = 1.0
        for line in (line for line in lines if line["seed"] == seed):
            kl = np.float32(line["update/kl"])
            beta *= 0.5 if kl < np.float32(target / 1.5) else 2.0 if kl > np.float32(target * 1.5) else 1.0
            wrong += beta != line["update/beta"]
            inside.append(target / 5 < kl < 5 * target)
            count += 1
            beta = line["update/beta"]
    share = np.mean(inside)
    claims = {
        f"beta follows the rule after each of {count} updates ({wrong} do not)": wrong == 0 and count > 100,
        f"KL is within a factor of five of its target in most updates (found {share:.0%})": share > 0.5,
    }
    return Finding(claims, f"{count} updates, {wrong} against the rule; KL in its band in {share:.0%}")


def natural() -> Finding:
    """F^-1 g by conjugate gradients is the exact solution, and the step does not depend on how pi is written."""
    cfg = npg.Config(hidden=(4,))
    state = npg.init(cfg, SPEC, jax.random.key(0))
    random = np.random.default_rng(0)
    drawn = lambda x: jnp.asarray(random.normal(0, 0.5, x.shape), jnp.float32)  # noqa: E731
    policy = jax.tree.map(drawn, state.policy)
    obs = jnp.asarray(random.normal(size=(256, 3)), jnp.float32)
    old = policy(obs)
    flat, unravel = jax.flatten_util.ravel_pytree(policy)

    # the Fisher matrix from the scores of all actions, in float64
    score = jax.vmap(jax.jacobian(lambda x, o: jax.nn.log_softmax(unravel(x).net(o))), (None, 0))(flat, obs)
    score, p = np.asarray(score, np.float64), np.asarray(jax.nn.softmax(old.logits), np.float64)
    fisher = np.einsum("ba,bai,baj->ij", p, score, score) / len(obs)
    gradient = jnp.asarray(fisher @ random.normal(size=len(flat)), jnp.float32)  # in the range of F
    damping = 1e-3
    exact = np.linalg.solve(fisher + damping * np.eye(len(flat)), np.asarray(gradient, np.float64))

    product = fisher_product(lambda q: old.kl(q(obs)).mean(), policy, damping)
    found, residual = conjugate_gradient(product, unravel(gradient), 200)
    found = np.asarray(jax.flatten_util.ravel_pytree(found)[0], np.float64)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)

    # written with other parameters, theta = A phi, the step moves the distribution alike; the plain gradient does not
    matrix = np.eye(len(flat)) + 0.3 * random.normal(size=(len(flat), len(flat))) / np.sqrt(len(flat))
    plain, moved = np.asarray(gradient, np.float64), matrix @ matrix.T @ np.asarray(gradient, np.float64)
    there = matrix @ np.linalg.solve(
        matrix.T @ (fisher + damping * np.eye(len(flat))) @ matrix, matrix.T @ plain
    )
    same = np.linalg.norm(there - exact) / np.linalg.norm(exact)
    other = np.linalg.norm(moved - plain) / np.linalg.norm(plain)
    claims = {
        f"F^-1 g is that of an exact solve to 1e-3 (found {error:.1e})": error < 1e-3,
        f"the natural step is the same in other parameters to 1e-6 (found {same:.1e})": same < 1e-6,
        f"the plain gradient is not (differs by {other:.0%})": other > 0.05,
    }
    return Finding(claims, f"F^-1 g within {error:.1e} of an exact solve, residual {float(residual):.1e}")


if __name__ == "__main__":
    import jax.flatten_util

    main({"F8": natural, "F9": trpo, "F10": adaptive})
