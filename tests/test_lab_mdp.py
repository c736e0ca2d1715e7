"""Finite MDPs of the laboratory: values, objectives, the difference of two policies, planning, fitted models."""

import itertools

import numpy as np
import pytest

from polyak.errors import UserError
from polyak.lab import models, planning, worlds
from polyak.lab.mdp import MDP, random_mdp, random_policy, reaches, recurrent_classes

SEEDS = range(10)


def unrolled(mdp: MDP, policy: np.ndarray, steps: int) -> np.ndarray:
    """sum_{t < steps} gamma^t E[r_t | s_0 = s], term by term."""
    value, now = np.zeros(mdp.states), np.eye(mdp.states)
    for t in range(steps):
        for s, a in itertools.product(range(mdp.states), range(mdp.actions)):
            value += mdp.gamma**t * now[:, s] * policy[s, a] * mdp.reward[s, a]
        now = sum(
            now[:, [s]] * policy[s, a] * mdp.transition[s, a]
            for s in range(mdp.states)
            for a in range(mdp.actions)
        )
    return value


# ---- values and objectives


@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_occupancy_are_sums_over_time(seed):
    mdp = random_mdp(4, 2, seed, gamma=0.7)
    policy = random_policy(mdp, seed)
    value = unrolled(mdp, policy, 90)
    np.testing.assert_allclose(mdp.values(policy), value, atol=1e-12)
    assert mdp.objective(policy) == pytest.approx(mdp.start @ value)
    assert mdp.occupancy(policy).sum() == pytest.approx(1 / 0.3)
    assert mdp.occupancy(policy) @ mdp.chain(policy)[1] == pytest.approx(mdp.start @ value)
    assert mdp.objective(policy, "start", 5) == pytest.approx(
        mdp.start @ unrolled(mdp.replace(gamma=1.0), policy, 5)
    )
    np.testing.assert_allclose((policy * mdp.advantages(policy)).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(
        mdp.action_values(policy) - mdp.values(policy)[:, None], mdp.advantages(policy)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_average_reward_is_the_limit_of_a_mean_and_of_discounting(seed):
    mdp = random_mdp(5, 3, seed)
    policy = random_policy(mdp, seed)
    gain = mdp.objective(policy, "average")
    long = mdp.start_value(policy, 4_000) - mdp.start_value(policy, 2_000)
    assert gain == pytest.approx(long / 2_000, abs=1e-10)
    near = mdp.replace(gamma=1 - 1e-7)
    assert gain == pytest.approx(1e-7 * near.discounted_value(policy), abs=1e-5)
    chain, reward = mdp.chain(policy)
    np.testing.assert_allclose(mdp.stationary(policy) @ chain, mdp.stationary(policy), atol=1e-12)
    assert gain == pytest.approx(mdp.stationary(policy) @ reward, abs=1e-12)


def test_average_reward_of_a_chain_that_is_periodic_or_has_transient_states():
    mdp = worlds.two_loops()
    assert mdp.average_reward(np.array([0, 0, 0])) == pytest.approx(0.5)
    assert mdp.average_reward(np.array([1, 0, 0])) == pytest.approx(1.0)
    assert worlds.chain().average_reward(np.zeros(8, int)) == pytest.approx(1.0)
    np.testing.assert_allclose(worlds.chain().stationary(np.zeros(8, int)), np.eye(8)[-1], atol=1e-12)


def test_two_loops_turn_at_a_discount_of_one_half():
    for gamma in (0.0, 0.3, 0.49, 0.51, 0.7, 0.99):
        assert planning.policy_iteration(worlds.two_loops(gamma)).policy[0] == int(gamma > 0.5)


def test_a_chain_of_several_classes_and_an_episode_without_an_end_are_refused():
    stuck = MDP(np.stack([np.eye(2)], axis=1), np.ones((2, 1)), [0.5, 0.5])
    assert recurrent_classes(np.eye(2)) == 2
    assert recurrent_classes(np.array([[0, 1.0, 0], [1, 0, 0], [0.5, 0, 0.5]])) == 1
    with pytest.raises(UserError, match="2 recurrent classes"):
        stuck.average_reward(np.zeros(2, int))
    with pytest.raises(UserError, match="reach an end"):
        stuck.replace(gamma=1.0).values(np.zeros(2, int))
    with pytest.raises(UserError, match="did you mean 'average'"):
        stuck.objective(np.zeros(2, int), "averag")
    with pytest.raises(UserError, match="sum to 1; start must be"):
        MDP(np.zeros((2, 1, 2)), np.ones((2, 1)), [0.5, 0.4])


def test_values_without_a_discount_count_the_steps_to_the_end():
    walk = np.zeros((4, 1, 4))
    for s in range(3):
        walk[s, 0, [max(s - 1, 0), s + 1]] += 0.5
    walk[3, 0, 3] = 1
    mdp = MDP(walk, [[-1.0], [-1], [-1], [0]], [1.0, 0, 0, 0], gamma=1.0)
    np.testing.assert_allclose(mdp.values(np.zeros(4, int)), [-12, -10, -6, 0])
    assert reaches(walk[:, 0], np.array([False, False, False, True])).all()


# ---- two policies


@pytest.mark.parametrize("seed", SEEDS)
def test_the_performance_difference_is_that_of_two_linear_solves(seed):
    mdp = random_mdp(6, 3, seed)
    old, new = random_policy(mdp, seed), random_policy(mdp, 100 + seed)
    gain = mdp.start @ unrolled(mdp, new, 300) - mdp.start @ unrolled(mdp, old, 300)
    assert mdp.difference(new, old) == pytest.approx(gain, abs=1e-10)
    assert abs(mdp.surrogate(new, old) - gain) > 1e-6
    assert mdp.surrogate(old, old) == pytest.approx(0, abs=1e-12)


def test_the_surrogate_has_the_gradient_of_the_objective_and_no_more():
    mdp = random_mdp(6, 3, 0)
    old, other = random_policy(mdp, 0), random_policy(mdp, 1)

    def off(share):
        new = (1 - share) * old + share * other
        return mdp.surrogate(new, old) - (mdp.discounted_value(new) - mdp.discounted_value(old))

    assert abs(off(1e-2)) > 1e-7
    assert off(1e-3) / off(1e-2) == pytest.approx(1e-2, rel=0.05)  # of second order


def test_divergence_and_variance_of_ratios_equal_loops():
    mdp = random_mdp(3, 2, 0)
    old, new = random_policy(mdp, 0), random_policy(mdp, 1)
    kl = [sum(p * np.log(p / q) for p, q in zip(old[s], new[s], strict=True)) for s in range(3)]
    np.testing.assert_allclose(mdp.kl(old, new), kl)
    assert np.isinf(mdp.kl(old, np.eye(2)[[0, 0, 0]])).all()
    chance = mdp.occupancy(old) / mdp.occupancy(old).sum()
    mean = square = 0.0
    for s, a in itertools.product(range(3), range(2)):
        weighed = new[s, a] / old[s, a] * mdp.advantages(old)[s, a]
        mean += chance[s] * old[s, a] * weighed
        square += chance[s] * old[s, a] * weighed**2
    assert mdp.surrogate_variance(new, old) == pytest.approx(square - mean**2)


# ---- planning


@pytest.mark.parametrize("seed", SEEDS)
def test_plans_are_the_best_of_all_policies(seed):
    mdp = random_mdp(4, 3, seed)
    every = [mdp.values(np.array(policy)) for policy in itertools.product(range(3), repeat=4)]
    best = np.max(every, axis=0)
    np.testing.assert_allclose(planning.value_iteration(mdp).value, best, atol=1e-9)
    found = planning.policy_iteration(mdp, np.full(4, 2))
    np.testing.assert_allclose(found.value, best, atol=1e-12)
    np.testing.assert_allclose(mdp.values(found.policy), best, atol=1e-12)


def test_value_iteration_keeps_its_tolerance_and_needs_a_discount():
    mdp = random_mdp(10, 3, 0, gamma=0.95)
    exact = planning.policy_iteration(mdp).value
    rough, fine = planning.value_iteration(mdp, 1e-2), planning.value_iteration(mdp, 1e-9)
    assert np.abs(rough.value - exact).max() <= 1e-2
    assert np.abs(fine.value - exact).max() <= 1e-9
    assert rough.iterations < fine.iterations
    with pytest.raises(UserError, match="gamma below 1"):
        planning.value_iteration(mdp.replace(gamma=1.0))


def test_policy_iteration_ends_where_actions_are_equal():
    tied = worlds.two_loops(0.5)
    assert planning.policy_iteration(tied, np.array([1, 0, 0])).policy[0] == 1
    assert planning.policy_iteration(tied, np.array([0, 0, 0])).policy[0] == 0


def test_q_planning_equals_its_loop_and_converges_to_the_models_values():
    sure = random_mdp(5, 2, 0).replace(
        transition=np.eye(5)[np.random.default_rng(1).integers(5, size=(5, 2))]
    )
    exact = sure.backup(planning.value_iteration(sure, 1e-12).value)
    np.testing.assert_allclose(planning.q_planning(sure, 10_000, power=0), exact, atol=1e-8)
    one = planning.q_planning(sure, 1, power=0)
    assert (one != 0).sum() == 1
    assert one[one != 0] == sure.reward[one != 0]
    noisy = random_mdp(4, 2, 0, gamma=0.5)
    exact = noisy.backup(planning.value_iteration(noisy).value)
    assert np.abs(planning.q_planning(noisy, 50_000) - exact).max() < 0.02 * exact.max()


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 0.3])
def test_a_trust_region_step_keeps_its_divergence_and_gains(delta):
    for seed in SEEDS:
        mdp = random_mdp(6, 3, seed)
        policy = random_policy(mdp, seed)
        new = planning.trust_region_step(mdp, policy, mdp.advantages(policy), delta)
        visits = mdp.occupancy(policy)
        kl = visits @ mdp.kl(policy, new) / visits.sum()
        assert 0.3 * delta < kl <= delta
        assert mdp.surrogate(new, policy) > 0
        np.testing.assert_allclose(new.sum(1), 1)
    best = mdp.probabilities(planning.policy_iteration(mdp).policy)
    np.testing.assert_array_equal(planning.trust_region_step(mdp, best, mdp.advantages(best), delta), best)


# ---- models


def test_counts_equal_a_loop_and_divide_by_the_visits_of_their_own_pair():
    state, action, after = (np.array(x) for x in ([0, 0, 0, 1], [0, 0, 1, 1], [1, 0, 2, 2]))
    reward = np.array([1.0, 3.0, 5.0, 7.0])
    found = models.fit_counts(state, action, reward, after, np.ones(3) / 3, 2, 0.9)
    np.testing.assert_array_equal(found.visits, [[2, 1], [0, 1], [0, 0]])
    np.testing.assert_allclose(found.mdp.transition[0], [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_allclose(found.mdp.transition[1], [[1 / 3] * 3, [0, 0, 1]])
    np.testing.assert_allclose(found.mdp.reward, [[2, 5], [4, 7], [4, 4]])


def test_sampled_transitions_have_the_probabilities_of_the_world():
    mdp = random_mdp(4, 2, 0)
    many = models.fit_counts(*models.sample_transitions(mdp, 200_000, 0), mdp.start, 2, 0.9)
    assert models.total_variation(many.mdp.transition, mdp.transition).max() < 0.02
    np.testing.assert_allclose(many.mdp.reward, mdp.reward)
    policy = random_policy(mdp, 0)
    state, action, _, after = models.sample_transitions(mdp, 20_000, 0, policy)
    np.testing.assert_array_equal(state[1:], after[:-1])
    chance = np.bincount(state, minlength=4) / len(state)
    assert models.total_variation(chance, mdp.stationary(policy)) < 0.02
    found = np.array([np.bincount(action[state == s], minlength=2) / (state == s).sum() for s in range(4)])
    assert models.total_variation(found, policy).max() < 0.03


def test_least_squares_finds_a_linear_system_and_its_noise():
    random = np.random.default_rng(0)
    A, B = random.normal(size=(3, 3)), random.normal(size=(3, 2))
    state, action = random.normal(size=(20_000, 3)), random.normal(size=(20_000, 2))
    exact = models.fit_linear(state, action, state @ A.T + action @ B.T)
    np.testing.assert_allclose(exact[0], A, atol=1e-10)
    np.testing.assert_allclose(exact[1], B, atol=1e-10)
    spread = np.diag([0.1, 0.2, 0.3])
    noisy = models.fit_linear(
        state, action, state @ A.T + action @ B.T + random.normal(size=(20_000, 3)) @ spread
    )
    np.testing.assert_allclose(noisy[2], spread**2, atol=0.005)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_simulation_lemma_is_an_equality_within_its_bound(seed):
    mdp, model = random_mdp(5, 2, seed), random_mdp(5, 2, 100 + seed)
    policy = random_policy(mdp, seed)
    found = models.simulation_gap(mdp, model, policy)
    inside = model.replace(reward=mdp.reward)
    gap = mdp.start @ (unrolled(inside, policy, 300) - unrolled(mdp, policy, 300))
    assert found.gap == pytest.approx(gap, abs=1e-9)
    assert found.lemma == pytest.approx(gap, abs=1e-9)
    assert abs(gap) <= found.bound
    moved = models.simulation_gap(mdp.replace(reward=10 * mdp.reward - 3), model, policy)
    assert moved.gap == pytest.approx(10 * gap)
    assert moved.bound == pytest.approx(10 * found.bound)


# ---- worlds


def test_the_aliased_gridworld_is_the_drawn_one():
    mdp, sees = worlds.aliased_gridworld()
    go = lambda s, a: int(mdp.transition[s, a].argmax())  # noqa: E731
    assert [go(s, worlds.EAST) for s in range(5)] == [1, 2, 3, 4, 4]
    assert [go(s, worlds.WEST) for s in range(5)] == [0, 0, 1, 2, 3]
    assert [go(s, worlds.NORTH) for s in range(5)] == [0, 1, 2, 3, 4]
    assert [go(s, worlds.SOUTH) for s in range(5)] == [5, 1, 6, 3, 5]
    assert [mdp.reward[s, worlds.SOUTH] for s in range(5)] == [-1, 0, 1, 0, -1]
    assert sees[1] == sees[3]
    assert mdp.ends.tolist() == [False] * 5 + [True] * 2


def test_the_best_deterministic_policy_of_what_is_seen_is_stuck_and_a_stochastic_one_is_not():
    world = worlds.aliased_gridworld()
    goal = np.arange(7) == 6
    for actions in itertools.product(range(4), repeat=4):
        chain, _ = world.mdp.chain(world.policy(np.array([*actions, 0])))
        assert not reaches(chain, goal)[:5].all()
    both = np.zeros((5, 4))
    both[0, worlds.EAST] = both[2, worlds.SOUTH] = both[3, worlds.WEST] = both[4, 0] = 1
    both[1, [worlds.EAST, worlds.WEST]] = 0.5
    value = world.mdp.replace(gamma=1.0).values(world.policy(both))
    np.testing.assert_allclose(value[:5], 1)


def test_two_doors_look_worse_where_they_are_used():
    world = worlds.two_doors()
    for used in (0, 1):
        policy = np.full(world.mdp.states, used)
        found = worlds.aggregated_action_values(world, policy)
        assert (planning.greedy(found)[:16] == 1 - used).all()
        assert np.abs(found[:16, 0] - found[:16, 1]).max() < 1e-3
        np.testing.assert_allclose(world.mdp.values(policy), world.mdp.values(1 - policy), atol=1e-12)
