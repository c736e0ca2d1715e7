import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from polyak.envs.environment import to_bounds
from polyak.interface import Box
from polyak.parts.distributions import Beta, Categorical, MultivariateNormal, Normal, TanhNormal, solve_lower

M = 20_000
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, 3)) * 3
MASKED = np.array([[1.0, -np.inf, 2.0], [-np.inf, -np.inf, 0.5], [0.0, 1.0, -1.0]])
MEAN, STD = RNG.normal(size=(4, 5, 2)), RNG.uniform(0.1, 3, size=(4, 5, 2))


def f32(x):
    return jnp.asarray(x, jnp.float32)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


# ---- categorical


@pytest.mark.parametrize("logits", [LOGITS, MASKED])
def test_categorical_agrees_with_scipy(logits):
    p, got = softmax(logits), Categorical(f32(logits))
    np.testing.assert_allclose(got.entropy(), stats.entropy(p, axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(got.mode(), p.argmax(-1))
    for action in range(3):
        x = jnp.full(logits.shape[:-1], action)
        np.testing.assert_allclose(np.exp(got.log_prob(x)), p[..., action], rtol=1e-4, atol=1e-7)


def test_categorical_kl_agrees_with_scipy():
    logits, other = MASKED, np.array([[0.3, 1.0, 2.0], [0.0, 0.0, 0.5], [2.0, 1.0, 1.0]])
    want = stats.entropy(softmax(logits), softmax(other), axis=-1)
    p, q = Categorical(f32(logits)), Categorical(f32(other))
    np.testing.assert_allclose(p.kl(q), want, rtol=1e-4)
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-6)
    # what q allows and p forbids costs infinitely much
    np.testing.assert_array_equal(np.isinf(q.kl(p)), [True, True, False])


def test_categorical_samples_by_probability_and_never_what_is_forbidden():
    logits = np.array([0.0, -np.inf, 1.0, -1.0])
    x = Categorical(jnp.broadcast_to(f32(logits), (M, 4))).sample(jax.random.key(0))
    assert x.dtype == jnp.int32
    count = np.bincount(x, minlength=4)
    assert count[1] == 0
    allowed = [0, 2, 3]
    assert stats.chisquare(count[allowed], M * softmax(logits)[allowed]).pvalue > 1e-3


@pytest.mark.parametrize("quantity", ["log_prob", "entropy", "kl"])
def test_masked_logits_have_finite_gradients(quantity):
    x, other = jnp.array([0, 2, 1]), Categorical(jnp.zeros((3, 3)))

    def total(logits):
        p = Categorical(logits)
        by_name = {"log_prob": lambda: p.log_prob(x), "entropy": p.entropy, "kl": lambda: p.kl(other)}
        return by_name[quantity]().sum()

    value, gradient = jax.value_and_grad(total)(f32(MASKED))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (gradient[np.isneginf(MASKED)] == 0).all()
    assert np.abs(gradient[0]).max() > 0.01 or quantity == "kl"


def test_masked_logits_are_the_smaller_distribution():
    p, small = Categorical(f32([1.0, -np.inf, 2.0])), Categorical(f32([1.0, 2.0]))
    gradient = jax.grad(lambda z: Categorical(z).entropy())(p.logits)
    want = jax.grad(lambda z: Categorical(z).entropy())(small.logits)
    np.testing.assert_allclose(gradient[jnp.array([0, 2])], want, rtol=1e-5)


def test_the_log_probability_of_a_forbidden_action_is_minus_infinity_without_nan():
    value, gradient = jax.value_and_grad(lambda z: Categorical(z).log_prob(jnp.int32(1)))(f32(MASKED[0]))
    assert value == -jnp.inf
    assert np.isfinite(gradient).all()


def test_categorical_gradient_of_log_prob_is_onehot_minus_p():
    logits = f32(LOGITS[0, 0])
    gradient = jax.grad(lambda z: Categorical(z).log_prob(jnp.int32(2)))(logits)
    np.testing.assert_allclose(gradient, np.eye(3)[2] - softmax(LOGITS[0, 0]), atol=1e-6)


# ---- normal


def test_normal_agrees_with_scipy():
    got, want = Normal(f32(MEAN), f32(STD)), stats.norm(MEAN, STD)
    x = RNG.normal(size=MEAN.shape) * 2
    np.testing.assert_allclose(got.log_prob(f32(x)), want.logpdf(x).sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.entropy(), want.entropy().sum(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.mode(), f32(MEAN))


def test_normal_kl_agrees_with_quadrature():
    def kl(m, s, n, r):
        p, q = stats.norm(m, s), stats.norm(n, r)
        integrand = lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
        return integrate.quad(integrand, m - 12 * s, m + 12 * s)[0]

    m, s, n, r = np.array([0.3, -1.0]), np.array([0.5, 2.0]), np.array([1.0, 0.0]), np.array([1.5, 0.7])
    got = Normal(f32(m), f32(s)).kl(Normal(f32(n), f32(r)))
    np.testing.assert_allclose(got, sum(map(kl, m, s, n, r)), rtol=1e-5)
    assert Normal(f32(m), f32(s)).kl(Normal(f32(m), f32(s))) == 0


def test_normal_samples_pass_a_kolmogorov_smirnov_test():
    x = Normal(jnp.broadcast_to(f32([0.5, -2.0]), (M, 2)), f32([0.3, 4.0])).sample(jax.random.key(0))
    assert x.shape == (M, 2)
    assert stats.kstest(x[:, 0], stats.norm(0.5, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 1], stats.norm(-2.0, 4.0).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.03


def test_one_std_serves_a_whole_batch():
    p, full = (
        Normal(f32(MEAN), f32([0.5, 2.0])),
        Normal(f32(MEAN), jnp.broadcast_to(f32([0.5, 2.0]), MEAN.shape)),
    )
    np.testing.assert_allclose(p.entropy(), full.entropy(), rtol=1e-6)
    assert p.entropy().shape == (4, 5)
    np.testing.assert_allclose(p.kl(full), np.zeros((4, 5)), atol=1e-6)
    np.testing.assert_array_equal(p.sample(jax.random.key(1)), full.sample(jax.random.key(1)))


def test_normal_samples_are_differentiable_in_mean_and_std():
    p = Normal(f32([1.0, 2.0]), f32([0.5, 3.0]))
    gradient = jax.grad(lambda p: p.sample(jax.random.key(0)).sum())(p)
    np.testing.assert_allclose(gradient.mean, [1.0, 1.0])
    np.testing.assert_allclose(gradient.std, (p.sample(jax.random.key(0)) - p.mean) / p.std, rtol=1e-4)


# ---- tanh of a normal


def slow_log_prob(u, mean, std):
    """Change of variables in float64, with 1 - tanh(u)^2 = 1 / cosh(u)^2."""
    return (stats.norm(mean, std).logpdf(u) + 2 * (np.logaddexp(u, -u) - np.log(2))).sum(-1)


def test_tanh_normal_agrees_with_a_change_of_variables_in_float64():
    a = RNG.uniform(-0.99, 0.99, size=MEAN.shape).astype(np.float32)
    want = slow_log_prob(np.arctanh(a.astype(np.float64)), MEAN, STD)
    got = TanhNormal(f32(MEAN), f32(STD)).log_prob(f32(a))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("u", [-20.0, -9.0, -3.0, 0.0, 1.0, 5.0, 20.0])
def test_sampled_log_prob_is_exact_and_smooth_where_tanh_saturates(u):
    mean, std = np.array([u, 0.1]), np.array([1e-3, 0.5])
    drawn = Normal(f32(mean), f32(std)).sample(jax.random.key(0))
    action, log_prob = TanhNormal(f32(mean), f32(std)).sample_and_log_prob(jax.random.key(0))
    np.testing.assert_array_equal(action, jnp.tanh(drawn))
    noise = (np.asarray(jax.random.normal(jax.random.key(0), (2,)), np.float64)) * std
    np.testing.assert_allclose(log_prob, slow_log_prob(mean + noise, mean, std), rtol=1e-5, atol=1e-2)

    def value(mean, std):
        action, log_prob = TanhNormal(mean, std).sample_and_log_prob(jax.random.key(0))
        return action.sum() - log_prob

    gradients = jax.grad(value, argnums=(0, 1))(f32(mean), f32(std))
    assert all(np.isfinite(g).all() for g in gradients)
    # d log p / d mean = 2 tanh(u) for a sample that moves with the mean
    log_gradient = jax.grad(lambda m: TanhNormal(m, f32(std)).sample_and_log_prob(jax.random.key(0))[1])(
        f32(mean)
    )
    np.testing.assert_allclose(log_gradient, 2 * np.tanh(mean + noise), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("u", [-20.0, -8.0, 0.0, 8.0, 20.0])
def test_the_log_prob_of_a_stored_action_has_finite_gradients_up_to_the_bounds(u):
    action = jnp.tanh(f32([u]))
    gradients = jax.grad(lambda m, s, a: TanhNormal(m, s).log_prob(a), argnums=(0, 1, 2))(
        f32([0.0]), f32([1.0]), action
    )
    assert np.isfinite(TanhNormal(f32([0.0]), f32([1.0])).log_prob(action))
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 5.0), (-0.3, -0.1)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.7, 0.3), (-1.2, 0.6)])
def test_tanh_normal_integrates_to_one_on_any_bounds(low, high, mean, std):
    action = np.linspace(-1, 1, 40_001)[1:-1]
    world = to_bounds(Box((), low, high, dtype="float64"), action[:, None])
    log_prob = TanhNormal(f32([mean]), f32([std])).log_prob(f32(action)[:, None])
    density = np.exp(np.asarray(log_prob, np.float64)) / ((high - low) / 2)
    np.testing.assert_allclose(integrate.trapezoid(density, world), 1.0, atol=2e-4)


def test_tanh_normal_integrates_to_one_over_two_actions():
    grid = np.linspace(-1, 1, 402)[1:-1]
    actions = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    density = np.exp(TanhNormal(f32([0.3, -0.5]), f32([0.4, 0.5])).log_prob(f32(actions)))
    np.testing.assert_allclose(integrate.trapezoid(integrate.trapezoid(density, grid), grid), 1.0, atol=1e-3)


def test_tanh_normal_samples_follow_its_density():
    p = TanhNormal(jnp.full((M, 1), 0.5), f32([0.8]))
    x, log_prob = p.sample_and_log_prob(jax.random.key(0))
    np.testing.assert_array_equal(x, p.sample(jax.random.key(0)))
    assert stats.kstest(x[:, 0], lambda a: stats.norm(0.5, 0.8).cdf(np.arctanh(a))).pvalue > 1e-3
    np.testing.assert_allclose(log_prob, p.log_prob(x), rtol=1e-2, atol=1e-2)


def test_the_mode_of_tanh_normal_is_the_squashed_mean():
    np.testing.assert_allclose(TanhNormal(f32(MEAN), f32(STD)).mode(), np.tanh(MEAN), rtol=1e-5)


def test_tanh_normal_kl_does_not_change_under_the_squashing():
    p, q = TanhNormal(f32([0.2]), f32([0.5])), TanhNormal(f32([-0.4]), f32([0.8]))
    a = np.tanh(np.linspace(-6, 6, 20_001))
    log_p, log_q = (np.asarray(d.log_prob(f32(a)[:, None]), np.float64) for d in (p, q))
    np.testing.assert_allclose(p.kl(q), integrate.trapezoid(np.exp(log_p) * (log_p - log_q), a), rtol=2e-3)


def test_tanh_normal_says_why_it_has_no_entropy():
    with pytest.raises(NotImplementedError, match="sample_and_log_prob"):
        TanhNormal(f32([0.0]), f32([1.0])).entropy()


@pytest.mark.parametrize("distribution", [Normal(f32(MEAN), f32(STD)), TanhNormal(f32(MEAN), f32(STD))])
def test_distributions_pass_through_jit_and_vmap(distribution):
    x = jnp.full(MEAN.shape, 0.3)
    batched = jax.jit(jax.vmap(lambda p, x: p.log_prob(x)))(distribution, x)
    np.testing.assert_allclose(batched, distribution.log_prob(x), rtol=1e-5, atol=1e-5)


# ---- full covariance


def factors(size, seed=0, lead=(5,)):
    """Lower triangular matrices with a positive diagonal, and means."""
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(*lead, size, size)), -1)
    factor += np.eye(size) * rng.uniform(0.3, 2, size=(*lead, size, 1))
    return rng.normal(size=(*lead, size)), factor


@pytest.mark.parametrize("size", [1, 2, 5])
def test_full_covariance_agrees_with_scipy(size):
    mean, factor = factors(size)
    x = mean + RNG.normal(size=mean.shape)
    pi = MultivariateNormal(f32(mean), f32(factor))
    for row in range(len(mean)):
        want = stats.multivariate_normal(mean[row], factor[row] @ factor[row].T)
        np.testing.assert_allclose(pi.log_prob(f32(x))[row], want.logpdf(x[row]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(pi.entropy()[row], want.entropy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pi.mode(), f32(mean))


def test_full_covariance_kl_is_the_textbook_s():
    """KL = (tr(S2^-1 S1) + d^T S2^-1 d - A + log det S2 / det S1) / 2."""
    (m1, l1), (m2, l2) = factors(3), factors(3, seed=1)
    p, q = (MultivariateNormal(f32(m), f32(factor)) for m, factor in ((m1, l1), (m2, l2)))
    for row in range(len(m1)):
        s1, s2, d = l1[row] @ l1[row].T, l2[row] @ l2[row].T, m2[row] - m1[row]
        inverse = np.linalg.inv(s2)
        logs = np.linalg.slogdet(s2)[1] - np.linalg.slogdet(s1)[1]
        want = 0.5 * (np.trace(inverse @ s1) + d @ inverse @ d - 3 + logs)
        np.testing.assert_allclose(p.kl(q)[row], want, rtol=1e-4)
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-5)


def test_full_covariance_samples_have_it():
    mean, factor = factors(3, lead=())
    pi = MultivariateNormal(jnp.broadcast_to(f32(mean), (M, 3)), f32(factor))
    x = np.asarray(pi.sample(jax.random.key(0)), float)
    spread = factor @ factor.T
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * np.sqrt(spread.max() / M))
    np.testing.assert_allclose(np.cov(x.T), spread, atol=8 * spread.max() / np.sqrt(M))


def test_full_covariance_with_a_diagonal_factor_is_the_diagonal_gaussian():
    pi, plain = MultivariateNormal(f32(MEAN), f32(STD)[..., None] * jnp.eye(2)), Normal(f32(MEAN), f32(STD))
    x = f32(MEAN + RNG.normal(size=MEAN.shape))
    np.testing.assert_allclose(pi.log_prob(x), plain.log_prob(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pi.entropy(), plain.entropy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pi.sample(jax.random.key(3)), plain.sample(jax.random.key(3)))


def test_forward_substitution_solves():
    _, factor = factors(6)
    x = RNG.normal(size=(5, 6))
    want = [np.linalg.solve(a, b) for a, b in zip(factor, x, strict=True)]
    np.testing.assert_allclose(solve_lower(f32(factor), f32(x)), want, rtol=1e-3, atol=1e-3)


# ---- beta

ALPHA, BETA = 1 + RNG.exponential(2.0, size=(2, 4, 5, 2))


def stretched(alpha, beta):
    """SciPy's, from -1 to 1."""
    return stats.beta(alpha, beta, loc=-1, scale=2)


def test_beta_agrees_with_scipy():
    got, want = Beta(f32(ALPHA), f32(BETA)), stretched(ALPHA, BETA)
    x = RNG.uniform(-0.999, 0.999, size=ALPHA.shape)
    np.testing.assert_allclose(got.log_prob(f32(x)), want.logpdf(x).sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.entropy(), want.entropy().sum(-1), rtol=1e-4, atol=1e-4)


def test_the_mean_of_beta_stands_for_its_mode():
    for a, b in [(1.5, 3.0), (4.0, 2.0), (2.0, 2.0), (1.0, 1.0), (1.01, 1.0)]:
        np.testing.assert_allclose(Beta(f32([a]), f32([b])).mode(), [stretched(a, b).mean()], atol=1e-6)


def test_beta_kl_agrees_with_quadrature():
    def kl(a, b, c, d):
        p, q = stretched(a, b), stretched(c, d)
        return integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -1, 1)[0]

    a, b, c, d = np.array([1.5, 4.0]), np.array([3.0, 1.2]), np.array([2.0, 2.0]), np.array([1.1, 6.0])
    got = Beta(f32(a), f32(b)).kl(Beta(f32(c), f32(d)))
    np.testing.assert_allclose(got, sum(map(kl, a, b, c, d)), rtol=1e-4)
    np.testing.assert_allclose(Beta(f32(a), f32(b)).kl(Beta(f32(a), f32(b))), 0.0, atol=1e-6)


def test_beta_samples_pass_a_kolmogorov_smirnov_test():
    x = Beta(jnp.broadcast_to(f32([1.2, 5.0]), (M, 2)), f32([3.0, 1.5])).sample(jax.random.key(0))
    assert x.shape == (M, 2)
    assert np.abs(x).max() <= 1
    assert stats.kstest(x[:, 0], stretched(1.2, 3.0).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 1], stretched(5.0, 1.5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.03


@pytest.mark.parametrize("x", [-1.0, 1.0])
@pytest.mark.parametrize("outputs", [(-30.0, -30.0), (30.0, -30.0), (0.0, 0.0)])
def test_beta_is_finite_with_its_gradients_at_the_bounds(outputs, x):
    def value(z):
        pi = Beta(*(1 + jax.nn.softplus(z))[:, None])
        return pi.log_prob(f32([x])) + pi.entropy()

    value, gradient = jax.value_and_grad(value)(f32(outputs))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
