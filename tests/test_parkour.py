"""The runner's course and dynamics against numbers by hand, and the network whose senses enter at two depths."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import polyak
from polyak.envs.worlds.parkour import AHEAD, BAR, COUNT, HURDLE, PIT, RUNNER, SPACING, Parkour
from polyak.errors import UserError
from polyak.interface import Box, Discrete
from polyak.parts.networks import build

ENV = Parkour()
STEP = jax.jit(ENV.step)
RUN, JUMP = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])


def course(*obstacles):
    """(begin, length, height) of each; the rest are far away."""
    rest = [(1000.0 + 10 * i, 1.0, 0.3) for i in range(COUNT - len(obstacles))]
    return tuple(jnp.asarray(column, jnp.float32) for column in zip(*obstacles, *rest, strict=True))


def play(start, track, actions):
    """Positions, heights and the last step, of a runner at full speed."""
    state, path = (jnp.asarray(start, jnp.float32), track), []
    for action in actions:
        step = STEP(state, action, jax.random.key(0))
        state = step.state
        path.append(np.asarray(state[0]))
        if step.terminated:
            break
    return np.array(path), step


def test_a_runner_gains_speed_up_to_its_limit_and_is_paid_by_the_metre_less_its_effort():
    state, x, speed = (jnp.zeros(4), course()), 0.0, 0.0
    for _ in range(20):
        step = STEP(state, RUN, jax.random.key(0))
        speed = min(4.0, speed + 8.0 * 0.05)
        x += speed * 0.05
        state = step.state
        np.testing.assert_allclose(state[0], [x, 0, speed, 0], atol=1e-5)
        np.testing.assert_allclose(step.reward, speed * 0.05 - 0.05, atol=1e-6)
    assert speed == 4.0
    step = STEP(state, jnp.array([-0.2, 0.4]), jax.random.key(0))
    np.testing.assert_allclose(step.reward, (4.0 - 0.08) * 0.05 - 0.05 * (0.2**2 + 0.4**2), atol=1e-6)


@pytest.mark.parametrize(("action", "rise"), [(-1.0, 0.0), (0.0, 0.0), (0.49, 0.0), (0.51, 4.0), (1.0, 4.0)])
def test_only_more_than_half_an_action_is_a_jump_and_only_from_the_ground(action, rise):
    for y, want in ((0.0, rise), (0.3, 1.0 - 9.8 * 0.05)):
        state = jnp.array([0.0, y, 2.0, 1.0]), course()
        after = STEP(state, jnp.array([0.0, action]), jax.random.key(0)).state[0]
        np.testing.assert_allclose(after[3], want, atol=1e-6)


def test_a_jump_is_a_parabola_and_gives_no_speed_in_the_air():
    path, _ = play([0, 0, 2.0, 0], course(), [JUMP] + 17 * [RUN])
    rise, y, want = 4.0, 0.0, []
    for number in range(18):
        rise = 4.0 if number == 0 else rise - 9.8 * 0.05
        y = max(0.0, y + rise * 0.05)
        want.append(y)
        if y == 0.0:
            break
    np.testing.assert_allclose(path[: len(want), 1], want, atol=1e-5)
    assert 0.8 < max(want) < 1.0
    np.testing.assert_allclose(path[: len(want), 2], 2.4, atol=1e-6)  # of the take-off's own step


@pytest.mark.parametrize(
    ("distance", "survives"), [(0.15, False), (1.0, True), (2.0, True), (3.3, False), (6.0, False)]
)
def test_a_hurdle_is_cleared_only_by_a_jump_at_the_right_place(distance, survives):
    hurdle = course((20.0, 0.2, 0.5))
    path, step = play([20.0 - distance, 0, 4.0, 0], hurdle, [JUMP] + 40 * [RUN])
    assert bool(step.terminated) != survives
    assert step.measures["cleared"] == survives
    assert (path[-1, 0] > 20.2) == survives


@pytest.mark.parametrize(("length", "survives"), [(1.0, True), (3.9, False)])
def test_a_gap_is_crossed_in_the_air(length, survives):
    _, step = play([19.9, 0, 4.0, 0], course((20.0, length, PIT)), [JUMP] + 30 * [RUN])
    assert bool(step.terminated) != survives
    _, step = play([19.9, 0, 4.0, 0], course((20.0, length, PIT)), 3 * [RUN])
    assert step.terminated


def test_feet_may_land_on_a_hurdle_and_leave_it_again():
    wide = course((20.0, 2.0, 0.4))
    path, step = play([18.5, 0, 4.0, 0], wide, [JUMP] + 35 * [RUN])
    on_top = (path[:, 0] > 20.0) & (path[:, 0] < 22.0)
    np.testing.assert_allclose(path[on_top, 1].min(), 0.4, atol=1e-6)
    assert not step.terminated
    assert path[-1, 1] == 0.0


def test_the_terrain_is_seen_ahead_and_tells_nothing_to_the_blind():
    (_, track), _ = ENV.reset(jax.random.key(3))
    runner = jnp.array([track[0][2] - 1.0, 0.3, 2.0, -1.0])
    for env in (ENV, Parkour(blind=True)):
        seen = env.step((runner, track), RUN, jax.random.key(0)).obs
        x, fine = float(runner[0]) + 0.1, 4_000
        at = x + SPACING * (np.arange(AHEAD * fine) + 0.5) / fine
        want = np.zeros_like(at)
        for begin, length, height in zip(*map(np.asarray, track), strict=True):
            want[(at >= begin) & (at <= begin + length)] = height
        want = want.reshape(AHEAD, fine).mean(axis=1)
        np.testing.assert_allclose(seen["terrain"], 0.0 if env.blind else want, atol=1e-3)
        np.testing.assert_allclose(
            seen["proprioception"], [0.3 - 1.49 * 0.05, 2.0 / 4.0, -1.49 / 4.0, 0.0], atol=1e-5
        )
    assert want.any()


def test_the_shortest_hurdle_is_seen_at_every_distance():
    track, distance = course((20.0, BAR, 0.5)), np.linspace(0.0, AHEAD * SPACING - BAR, 200)
    seen = jax.vmap(lambda x: ENV._seen(jnp.array([x, 0.0, 0.0, 0.0]), track)["terrain"])
    terrain = np.asarray(seen(jnp.asarray(20.0 - distance, jnp.float32)))
    np.testing.assert_allclose(terrain.sum(axis=1) * SPACING, BAR * 0.5, atol=1e-5)


def test_who_jumps_at_what_it_sees_clears_every_obstacle_and_earns_all_that_there_is():
    played = polyak.Agent("reproductions.parkour:scripted", "jax:Parkour").evaluate(100)
    assert (played.lengths == 200).all()
    # 10 steps up to 4 m/s and 190 at it, less 0.05 for each of these 10 and for each jump
    most = 0.05 * (0.4 * 55 + 190 * 4.0) - 0.05 * 10
    jumps = (most - played.returns) / 0.05
    np.testing.assert_allclose(jumps, np.round(jumps), atol=0.01)
    assert (np.abs(jumps - played.measures["cleared"]) <= 1 + 0.01).all()
    assert played.measures["cleared"].mean() > 7


def test_a_picture_shows_the_runner_and_what_stands_before_it():
    track = course((20.0, BAR, 0.5), (22.0, 1.0, PIT))
    for y in (0.0, 0.7):
        picture = ENV.draw((jnp.array([18.0, y, 4.0, 0.0]), track))
        assert (picture.shape, picture.dtype) == ((240, 640, 3), np.uint8)
        row, column = np.nonzero((picture == RUNNER).all(axis=-1))
        assert abs(row.max() - 80 * (2.2 - y)) < 3
        assert abs(column.mean() - 80 * 1.5) < 1
        row, column = np.nonzero((picture == HURDLE).all(axis=-1))
        assert abs(column.mean() - 80 * (1.5 + 2.0 + BAR / 2)) < 2
        assert (picture[-1, round(80 * (1.5 + 4.5))] > 200).all()  # into the gap


def test_courses_are_random_and_within_their_bounds():
    _, (begins, length, height) = jax.vmap(ENV.reset)(jax.random.split(jax.random.key(0), 200))[0]
    ends = np.asarray(begins + length)
    clear = np.asarray(begins)[:, 1:] - ends[:, :-1]
    assert clear.min() >= 3.0 - 1e-3
    assert clear.max() <= 6.0 + 1e-3
    height, length = np.asarray(height), np.asarray(length)
    hurdles = height > 0
    assert 0.45 < hurdles.mean() < 0.55
    assert (height[~hurdles] == PIT).all()
    assert (height[hurdles].min() >= 0.3) & (height[hurdles].max() <= 0.6)
    assert (length[~hurdles].min() >= 0.6) & (length[~hurdles].max() <= 1.4)


# ---- the network

SPACE = {"terrain": Box((5,)), "proprioception": Box((3,)), "kind": Discrete(2)}


def point(rng, *lead):
    return {
        "terrain": rng.normal(size=(*lead, 5)).astype(np.float32),
        "proprioception": rng.normal(size=(*lead, 3)).astype(np.float32),
        "kind": rng.integers(2, size=lead),
    }


@pytest.mark.parametrize("pair", [False, True])
def test_the_terrain_enters_at_the_bottom_and_all_else_above(pair):
    rng = np.random.default_rng(0)
    space, seen = SPACE, point(rng, 2, 4)
    action = rng.normal(size=(2, 4, 2)).astype(np.float32)
    if pair:
        space, seen = (SPACE, Box((2,))), (seen, action)
    net = build("two_depths")(jax.random.key(0), space, 2, (6, 7, 4), "tanh")
    got = net(jax.tree.map(jnp.asarray, seen))
    obs = seen[0] if pair else seen
    below, above = net.below.layers, net.above.layers
    assert [layer.weight.shape for layer in (*below, *above)] == [(5, 6), (11 + 2 * pair, 7), (7, 4), (4, 2)]
    for place in np.ndindex(2, 4):
        units = np.tanh(
            obs["terrain"][place] @ oracles.float64(below[0].weight) + oracles.float64(below[0].bias)
        )
        one_hot = np.eye(2)[obs["kind"][place]]
        x = np.concatenate([one_hot, obs["proprioception"][place], units, *([action[place]] if pair else [])])
        for number, layer in enumerate(above):
            x = x @ oracles.float64(layer.weight) + oracles.float64(layer.bias)
            x = x if number == len(above) - 1 else np.tanh(x)
        np.testing.assert_allclose(got[place], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("space", "hidden"), [(Box((3,)), (8, 8)), (SPACE, (8,))])
def test_what_it_cannot_be_built_for_is_refused_in_one_line(space, hidden):
    with pytest.raises(UserError, match="'two_depths' needs a part 'terrain' of the observation and two"):
        build("two_depths")(jax.random.key(0), space, 2, hidden)
