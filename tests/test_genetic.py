"""The genetic algorithm: selection, crossover, mutation and elitism, each seen in the genes of the children."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK

from polyak.algorithms import genetic
from polyak.interface import Box, Discrete, OnPolicy, Spec

N, P = 2, 40
CFG = genetic.Config(
    hidden=(3,), gamma=0.9, population=P, parents=4, elites=2, sigma=0.3, data=OnPolicy(episodes=P // N)
)
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


def start(cfg=CFG):
    return jax.jit(lambda key: genetic.init(cfg, SPEC, key), compiler_options=QUICK)(jax.random.key(0))


def children(**settings):
    """The members [P, D] before in the order of their values, and after one generation."""
    cfg, state = dataclasses.replace(CFG, **settings), start()
    value = np.random.default_rng(0).normal(size=P)
    state = state.replace(members=jnp.round(state.members, 6))
    after, metrics = genetic.tell(cfg, state, jnp.asarray(value), jax.random.key(1))
    return np.asarray(state.members)[np.argsort(-value)], np.asarray(after.members), metrics


class Slow:
    """Mitchell's loop, gene by gene, with the same draws."""

    def __init__(self, state):
        self.members = np.asarray(state.members, float)
        self.clock = jax.tree.map(np.asarray, state.clock)

    def update(self, batch, key):
        value = oracles.member_returns(CFG, batch)
        ranked = self.members[np.argsort(-value)]
        keys = jax.random.split(key, 5)
        shape = ranked.shape
        parents = np.asarray(jax.random.randint(keys[0], (2, P), 0, CFG.parents))
        pairs = np.asarray(jax.random.bernoulli(keys[1], CFG.crossover, (P, 1)))
        genes = np.asarray(jax.random.bernoulli(keys[2], 0.5, shape))
        mutates = np.asarray(jax.random.bernoulli(keys[3], CFG.mutation, shape))
        mutation = np.asarray(jax.random.normal(keys[4], shape), float)
        new = np.empty_like(ranked)
        for i in range(P):
            if i < CFG.elites:
                new[i] = ranked[i]
                continue
            for d in range(shape[1]):
                parent = parents[1, i] if pairs[i, 0] and genes[i, d] else parents[0, i]
                new[i, d] = ranked[parent, d] + (CFG.sigma * mutation[i, d] if mutates[i, d] else 0)
        self.members = new
        self.clock = self.clock._replace(updates=self.clock.updates + 1)


def test_its_updates_are_those_of_a_slow_loop():
    update = jax.jit(lambda *args: genetic.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.generation(CFG, N, rollout) for rollout in range(4)]
    oracles.assert_follows(update, start(), Slow(start()), batches, atol=1e-5)


def test_the_elite_lives_on_unchanged_and_first():
    before, after, _ = children()
    np.testing.assert_array_equal(after[:2], before[:2])
    assert (after[2:] != before[2:]).any(axis=1).all()


def test_without_mutation_every_gene_is_that_of_one_of_the_best():
    before, after, _ = children(mutation=0.0, crossover=1.0)
    assert (after[2:, None] == before[None, : CFG.parents]).any(axis=1).all()
    whole = (after[2:, None] == before[None, : CFG.parents]).all(axis=2).any(axis=1)
    assert whole.mean() < 0.5  # most children have two different parents


def test_without_crossover_and_mutation_children_are_copies_of_the_best():
    before, after, metrics = children(mutation=0.0, crossover=0.0)
    assert (after[2:, None] == before[None, : CFG.parents]).all(axis=2).any(axis=1).all()
    assert metrics["crossed"] == 0


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_mutation_adds_gaussian_noise_to_a_share_of_the_genes(share):
    before, after, _ = children(mutation=share, crossover=0.0, parents=1)
    change = (after - before[0])[2:]
    assert abs((change != 0).mean() - share) < 0.05
    assert abs(change[change != 0].std() - CFG.sigma) < 0.03


def test_more_parents_or_elites_than_members_are_refused():
    lines = genetic.wrong(dataclasses.replace(CFG, parents=P + 1, elites=P + 1), SPEC)
    assert [line.split(" is ")[0] for line in lines] == ["parents", "elites"]
