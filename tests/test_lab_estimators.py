"""The estimators of the laboratory: exact gradients against independent ones, samples against the exact ones."""

import itertools

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from polyak.errors import UserError
from polyak.lab import estimators as lab
from polyak.lab import linear
from polyak.lab.mdp import random_mdp
from polyak.lab.tasks import draw, probabilities

SAMPLES = 20_000
LQR = linear.double_integrator(gamma=0.9)
REGULATOR = lab.Regulator(LQR, horizon=5)
GAUSSIAN = lab.gaussian([[-0.5, -0.9]], 0.4)
MDP = lab.Finite(random_mdp(3, 2, seed=0), horizon=3)
SOFTMAX = lab.softmax(np.random.default_rng(1).normal(size=(3, 2)))


def numeric(value, x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    steps = epsilon * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(value(x + s) - value(x - s)) / (2 * epsilon) for s in steps])


# ---- the exact gradients


def test_the_gradient_of_the_regulator_is_that_of_a_simulated_second_moment():
    def cost(numbers):
        """The expected cost by forward recursion of E[s s'], which the closed form does not use."""
        K, sigma = numbers[None, :2], np.exp(numbers[2:])
        moment, total = LQR.start, 0.0
        for t in range(REGULATOR.horizon):
            action = K @ moment @ K.T + np.diag(sigma**2)
            total += LQR.gamma**t * (np.trace(LQR.Q @ moment) + np.trace(LQR.R @ action))
            closed = LQR.A + LQR.B @ K
            moment = closed @ moment @ closed.T + LQR.B @ np.diag(sigma**2) @ LQR.B.T + LQR.noise
        return total

    numbers = np.array([-0.5, -0.9, np.log(0.4)])
    assert linear.expected_cost(LQR, numbers[None, :2], np.array([0.4]), 5) == pytest.approx(cost(numbers))
    np.testing.assert_allclose(
        lab.flatten(REGULATOR.exact(GAUSSIAN)), -numeric(cost, numbers), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("kind", ["quadratic", "step"])
def test_the_gradient_of_a_bandit_is_that_of_an_integral(kind):
    task = lab.Bandit(kind, at=0.7)

    def value(numbers):
        pdf = lambda a: stats.norm.pdf(a, numbers[0], np.exp(numbers[1]))  # noqa: E731
        if kind == "step":
            return integrate.quad(pdf, 0.7, 12, epsabs=1e-12)[0]
        return integrate.quad(lambda a: -((a - 0.7) ** 2) * pdf(a), -12, 12, epsabs=1e-12)[0]

    numbers = np.array([0.2, 0.1])
    policy = lab.gaussian([[0.2]], np.exp(0.1))
    np.testing.assert_allclose(lab.flatten(task.exact(policy)), numeric(value, numbers, 1e-4), atol=1e-6)
    value_at, _ = task.values(policy)
    assert float(value_at(0, np.ones(1))) == pytest.approx(value(numbers), abs=1e-6)


def test_the_gradient_of_the_mdp_is_that_of_its_value():
    def value(numbers):
        mdp, pi = MDP.mdp, probabilities(lab.softmax(numbers.reshape(3, 2)))
        left = np.zeros(3)
        for _ in range(MDP.horizon):
            left = (pi * (mdp.reward + mdp.gamma * mdp.transition @ left)).sum(1)
        return mdp.start @ left

    numbers = np.asarray(SOFTMAX.net.weight)
    np.testing.assert_allclose(
        lab.flatten(MDP.exact(SOFTMAX)), numeric(value, numbers.ravel()), rtol=1e-7, atol=1e-8
    )


def test_values_of_the_regulator_are_their_own_expectations():
    """V_t(s) = E_a[Q_t(s, a)], and Q_t(s, a) = r(s, a) + gamma E[V_{t+1}(s')], both by Gauss-Hermite quadrature."""
    with jax.enable_x64(True):
        value, action_value = REGULATOR.values(GAUSSIAN)
        points, weights = np.polynomial.hermite_e.hermegauss(9)
        weights = weights / weights.sum()
        state = np.array([0.3, -0.7])
        mean = (np.array([[-0.5, -0.9]]) @ state)[0]
        for t in (0, 2, 4):
            averaged = sum(
                w * action_value(t, state, np.array([mean + 0.4 * z]))
                for z, w in zip(points, weights, strict=True)
            )
            assert float(value(t, state)) == pytest.approx(float(averaged), rel=1e-9)
        action = np.array([0.5])
        after = LQR.A @ state + LQR.B @ action
        future = sum(
            v * w * value(2, after + 0.1 * np.array([y, z]))
            for (y, v), (z, w) in itertools.product(zip(points, weights, strict=True), repeat=2)
        )
        expected = REGULATOR.reward(state, action) + LQR.gamma * future
        assert float(action_value(1, state, action)) == pytest.approx(float(expected), rel=1e-9)


# ---- the samples


@pytest.mark.parametrize(("task", "policy"), [(REGULATOR, GAUSSIAN), (MDP, SOFTMAX)], ids=["lqr", "mdp"])
def test_every_estimator_has_the_exact_mean_and_the_variances_are_in_their_order(task, policy):
    found = lab.compare(task, policy, SAMPLES)
    for name, one in found.estimates.items():
        assert one.samples.dtype == np.float64
        assert np.abs(one.deviation(found.exact)).max() < 3.5, name
    variances = [
        found.estimates[n].variance for n in ("likelihood ratio", "reward-to-go", "baseline", "advantage")
    ]
    assert (np.diff(variances) < 0).all()
    assert ("pathwise" in found.estimates) == (task is REGULATOR)
    lines = str(found).splitlines()
    assert [line[:22].strip() for line in lines[1:]] == list(found.estimates)


def test_likelihood_ratio_equals_a_loop_over_the_same_episode():
    path_policy = jax.tree.map(np.asarray, SOFTMAX)
    key = jax.random.key(3)
    with jax.enable_x64(True):
        path = lab.rollout(MDP, path_policy, jax.random.clone(key))
        found = lab.flatten(lab.likelihood_ratio(MDP, path_policy, jax.random.clone(key)))
        later = lab.flatten(lab.reward_to_go(MDP, path_policy, key))
    pi, mdp = probabilities(SOFTMAX), MDP.mdp
    rewards = [
        mdp.gamma**t * mdp.reward[s, a] for t, (s, a) in enumerate(zip(path.state, path.action, strict=True))
    ]
    whole, rest = np.zeros((3, 2)), np.zeros((3, 2))
    for t, (s, a) in enumerate(zip(path.state, path.action, strict=True)):
        score = np.eye(2)[a] - pi[s]
        whole[s] += score * sum(rewards)
        rest[s] += score * sum(rewards[t:])
    np.testing.assert_allclose(found, whole.ravel(), rtol=1e-12)
    np.testing.assert_allclose(later, rest.ravel(), rtol=1e-12)


def test_pathwise_is_less_noisy_on_a_smooth_reward_and_wrong_on_a_step():
    policy = lab.gaussian([[0.0]], 1.0)
    both = {"likelihood ratio": lab.likelihood_ratio, "pathwise": lab.pathwise}
    smooth = lab.compare(lab.Bandit("quadratic", at=0.7), policy, SAMPLES, estimators=both).estimates
    assert smooth["pathwise"].variance < smooth["likelihood ratio"].variance / 2
    step = lab.compare(lab.Bandit("step", at=0.7), policy, SAMPLES, estimators=both)
    assert (step.estimates["pathwise"].samples == 0).all()
    assert np.isinf(step.estimates["pathwise"].deviation(step.exact)).all()
    assert np.abs(step.estimates["likelihood ratio"].deviation(step.exact)).max() < 3


def test_finite_differences_of_common_numbers_are_the_pathwise_sample_where_the_return_is_smooth():
    few = 50
    path = lab.estimate(lab.pathwise, REGULATOR, GAUSSIAN, few).samples
    common = lab.estimate(lab.FiniteDifference(epsilon=1e-4), REGULATOR, GAUSSIAN, few).samples
    own = lab.estimate(lab.FiniteDifference(epsilon=1e-4, common=False), REGULATOR, GAUSSIAN, few).samples
    np.testing.assert_allclose(common, path, rtol=1e-5, atol=1e-5)
    assert np.abs(own - path).min() > 1
    ahead = lab.estimate(lab.FiniteDifference(1e-6, central=False), REGULATOR, GAUSSIAN, few).samples
    np.testing.assert_allclose(ahead, path, rtol=1e-3, atol=1e-3)


def test_the_same_seed_plays_the_same_episodes_whatever_the_batch():
    whole = lab.estimate(lab.likelihood_ratio, MDP, SOFTMAX, 64, seed=5)
    parts = lab.estimate(lab.likelihood_ratio, MDP, SOFTMAX, 64, seed=5, batch=32)
    other = lab.estimate(lab.likelihood_ratio, MDP, SOFTMAX, 64, seed=6)
    np.testing.assert_allclose(whole.samples, parts.samples, rtol=1e-12)
    assert np.abs(whole.samples - other.samples).max() > 0.1


def test_draw_has_the_probabilities_it_is_given():
    with jax.enable_x64(True):
        found = jax.vmap(lambda key: draw(key, np.array([0.5, 0.0, 0.2, 0.3])))(
            jax.random.split(jax.random.key(0), 20_000)
        )
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 20_000, [0.5, 0, 0.2, 0.3], atol=0.015)


def test_sigma_of_one_for_all_and_sigma_that_is_fixed_have_their_own_gradients():
    several = linear.LQR(np.eye(2), np.eye(2), np.eye(2), np.diag([1.0, 2.0]))
    task, gain = lab.Regulator(several, 3), -0.3 * np.eye(2)
    each = lab.flatten(task.exact(lab.gaussian(gain, 0.5)))
    shared = lab.gaussian(gain, 0.5).replace(log_sigma=np.log([0.5]), sigma="isotropic")
    np.testing.assert_allclose(lab.flatten(task.exact(shared)), [*each[:4], each[4:].sum()])
    fixed = lab.gaussian(gain, 0.5, "fixed")
    np.testing.assert_allclose(lab.flatten(task.exact(fixed)), [*each[:4], 0, 0])
    assert np.abs(lab.estimate(lab.pathwise, task, fixed, 2_000).deviation(task.exact(fixed))).max() < 3.5


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="pathwise needs real actions"):
        lab.estimate(lab.pathwise, MDP, SOFTMAX, 10)
    with pytest.raises(UserError, match="softmax policies of a table"):
        MDP.exact(GAUSSIAN)
    with pytest.raises(UserError, match="linear Gaussian policies"):
        REGULATOR.exact(SOFTMAX)


# ---- ascent, and policies that cannot tell states apart


def test_ascent_is_a_loop_of_estimates_and_begins_with_the_policy_it_was_given():
    key = jax.random.split(jax.random.key(4), 3)[0]
    with jax.enable_x64(True):
        samples = [lab.flatten(lab.reward_to_go(MDP, SOFTMAX, one)) for one in jax.random.split(key, 8)]
    course = lab.ascend(lab.reward_to_go, MDP, SOFTMAX, lr=0.5, steps=3, episodes=8, seed=4)
    assert len(course) == 4
    np.testing.assert_array_equal(course[0].net.weight, SOFTMAX.net.weight)
    first = np.asarray(SOFTMAX.net.weight) + 0.5 * np.mean(samples, axis=0).reshape(3, 2)
    np.testing.assert_allclose(course[1].net.weight, first, rtol=1e-12)
    assert np.abs(course[3].net.weight - course[2].net.weight).max() > 1e-3


def test_states_that_look_alike_share_their_gradient():
    seen = lab.softmax([[0.3, -0.1], [0.2, 0.5]], sees=[0, 1, 0])
    apart = lab.softmax(np.array([[0.3, -0.1], [0.2, 0.5], [0.3, -0.1]]))
    np.testing.assert_allclose(probabilities(seen), probabilities(apart))
    one, three = (lab.estimate(lab.reward_to_go, MDP, policy, 100).mean for policy in (seen, apart))
    np.testing.assert_allclose(one[:2], three[:2] + three[4:], rtol=1e-10)
    np.testing.assert_allclose(one[2:], three[2:4], rtol=1e-10)
    with pytest.raises(UserError, match="see the state"):
        MDP.exact(seen)
