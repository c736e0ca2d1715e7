"""The lane: its geometry against slow float64 loops, its camera against places on the ground, its ends and measures."""

import io
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polyak
from polyak.commands.results import say_evaluation
from polyak.envs.find import find
from polyak.envs.worlds import road_view
from polyak.envs.worlds.lane import AHEAD, Car, Lane
from polyak.envs.worlds.road_view import Camera
from polyak.runs.evaluation import Evaluation
from reproductions.driving import in_words, order, table_row

ENV = Lane(length=120, height=20, width=28)
FEATURES = ENV.replace(observation="features")
ROAD = jax.jit(ENV.road)
STEP = jax.jit(lambda env, state, action: env.step(state, action, jax.random.key(0)))


def car(progress=0.0, offset=0.0, angle=0.0, speed=0.0, steering=0.0):
    return Car(*(jnp.float32(x) for x in (progress, offset, angle, speed, steering)))


def fine_curve(road, step=0.01):
    """The centre line [K, 3] (m, m, rad) by Euler's rule with a small step, from the curvature by the metre."""
    curvature = np.asarray(road.curvature, np.float64)
    s = np.arange(0, len(curvature) - 1, step)
    bend = np.interp(s + step / 2, np.arange(len(curvature)), curvature)
    heading = np.concatenate([[0], np.cumsum(bend * step)])[:-1]
    middle = heading + bend * step / 2
    x, y = (np.concatenate([[0], np.cumsum(f(middle) * step)])[:-1] for f in (np.cos, np.sin))
    return np.stack([x, y, heading], axis=1)


def nearest(curve, point, step=0.01):
    """Metres along a curve and to the left of it, of the place of the curve that is nearest to a point."""
    away = point - curve[:, :2]
    k = int((away**2).sum(axis=1).argmin())
    left = np.array([-np.sin(curve[k, 2]), np.cos(curve[k, 2])])
    return k * step, float(away[k] @ left), curve[k, 2]


def test_shapes_and_strong_types_never_change():
    for env in (ENV, FEATURES, ENV.replace(safety_driver=True)):
        key = jax.random.key(0)
        state, obs = jax.eval_shape(env.reset, key)
        step = jax.eval_shape(env.step, state, jnp.zeros(2), key)
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in ((state, obs), step[:2])]
        assert shapes[0] == shapes[1]
        assert jax.tree.map(lambda box: (box.shape, np.dtype(box.dtype)), env.spec.obs) == shapes[0][1]
        assert step.measures.keys() == env.spec.measures.keys()
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, obs, step)))
    specs = []
    jax.jit(lambda e, key: specs.append(e.spec) or e.reset(key)[1])(ENV, jax.random.key(0))
    assert specs == [ENV.spec]


@pytest.mark.parametrize("seed", range(4))
def test_the_table_of_a_road_is_its_curvature_integrated(seed):
    road = ROAD(jax.random.key(seed))
    curve = fine_curve(road)[::100]
    table = np.stack([road.centre.east, road.centre.north, road.centre.heading], axis=1)[: len(curve)]
    assert np.abs(table[:, :2] - curve[:, :2]).max() < 0.05
    assert np.abs(table[:, 2] - curve[:, 2]).max() < 0.01
    assert np.asarray(road.curvature).std() > 0.005


@pytest.mark.parametrize("seed", range(3))
def test_a_car_drives_as_a_bicycle_does_in_the_plane(seed):
    """Progress, offset and angle are those of a float64 bicycle in east and north, projected on the fine curve."""
    random, road = np.random.default_rng(seed), ROAD(jax.random.key(seed))
    curve, now = fine_curve(road), car(speed=1.0)
    x, y, turned, speed, steering = 0.0, 0.0, 0.0, 1.0, 0.0
    for _ in range(12):
        action = np.array([random.uniform(-0.3, 0.3), random.uniform(0.5, 2.7)])
        now = STEP(ENV, (road, now), jnp.asarray(action, jnp.float32)).state[1]
        # over a step both stand midway between what they were and what they become
        after = [
            old + (asked - old) * (1 - np.exp(-ENV.timestep / time))
            for old, asked, time in zip(
                (steering, speed), action, (ENV.steering_time, ENV.speed_time), strict=True
            )
        ]
        v, wheel = (speed + after[1]) / 2, (steering + after[0]) / 2
        for _ in range(400):
            dt = ENV.timestep / 400
            x, y = x + dt * v * np.cos(turned), y + dt * v * np.sin(turned)
            turned += dt * v * np.tan(wheel) / ENV.wheelbase
        steering, speed = after
        along, left, heading = nearest(curve, np.array([x, y]))
        found = [float(value) for value in (now.progress, now.offset, now.angle)]
        np.testing.assert_allclose(found, [along, left, turned - heading], atol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_a_pixel_is_the_place_on_the_road_that_its_ray_meets(seed):
    road, here = ROAD(jax.random.key(seed)), car(30.0, 0.3, -0.05)
    rays, height = road_view.rays(Camera(20, 28, 80.0, 12.0)), 1.4
    beside, along, _ = (np.asarray(x) for x in road_view.on_road(rays, height, road, here))
    curve = fine_curve(road)
    start = curve[3000]
    heading = start[2] - 0.05
    eye = start[:2] + 0.3 * np.array([-np.sin(start[2]), np.cos(start[2])])
    ahead, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    looked_at = 0
    for row in range(len(rays.forward)):
        for column in range(0, 28, 3):
            forward, side = height * rays.forward[row, 0], height * rays.left[row, column]
            found, to_left, _ = nearest(curve, eye + forward * ahead + side * left)
            if forward < 25 and abs(to_left) < 4:
                assert abs(beside[row, column] - to_left) < 0.15 + 0.01 * forward
                assert abs(along[row, column] - found) < 0.6
                looked_at += 1
    assert looked_at > 50


def test_each_ray_meets_the_ground_where_a_pinhole_camera_says():
    camera = Camera(60, 80, 80.0, 12.0)
    rays, focal = road_view.rays(camera), 40 / np.tan(np.radians(40))
    row, column = 45, 10
    ray = np.array([1.0, -(column + 0.5 - 40) / focal, -(row + 0.5 - 30) / focal])  # ahead, left, up
    pitch = np.radians(12)
    down = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
    ray = down @ ray
    place = ray / -ray[2]
    np.testing.assert_allclose(rays.forward[row - rays.horizon, 0], place[0], rtol=1e-5)
    np.testing.assert_allclose(rays.left[row - rays.horizon, column], place[1], rtol=1e-5)


def test_every_episode_has_another_road_and_a_number_brings_one_back():

    def each_seed(function):
        return jax.vmap(lambda seed: function(jax.random.key(seed)))(jnp.arange(32))

    seen = np.asarray(each_seed(ENV.reset)[1]["camera"], int).reshape(32, -1)
    apart = np.abs(seen[:, None] - seen[None]).mean(axis=-1) + 1e3 * np.eye(32)
    assert apart.min() > 1
    few = ENV.replace(roads=3, first_road=10)
    bends = np.asarray(each_seed(few.road).curvature)
    assert len(np.unique(bends, axis=0)) == 3
    other = np.asarray(each_seed(few.replace(first_road=13).road).curvature)
    assert not (bends[:, None] == other[None]).all(axis=-1).any()
    one_day = each_seed(ENV.replace(looks=1).road)
    assert len(np.unique(one_day.look.seed)) == 1
    assert len(np.unique(one_day.curvature, axis=0)) == 32


def test_a_disengagement_terminates_and_the_end_of_the_route_truncates():
    road = ROAD(jax.random.key(0))
    room = float((road.lane_width - ENV.car_width) / 2)
    inside = STEP(ENV, (road, car(50, room - 0.01)), jnp.zeros(2))
    outside = STEP(ENV, (road, car(50, room + 0.01)), jnp.zeros(2))
    arrived = STEP(ENV, (road, car(119.9, 0.0, 0.0, 2.0)), jnp.array([0.0, 2.0]))
    ends = [(bool(step.terminated), bool(step.truncated)) for step in (inside, outside, arrived)]
    assert ends == [(False, False), (True, False), (False, True)]
    assert [float(step.measures["disengagements"]) for step in (inside, outside)] == [0, 1]
    assert float(arrived.reward) == pytest.approx(0.4, abs=0.01) == float(arrived.measures["distance"])


def test_a_safety_driver_puts_the_car_back_and_the_episode_goes_on():
    road, env = ROAD(jax.random.key(0)), ENV.replace(safety_driver=True)
    step = STEP(env, (road, car(50, -2.0, 0.3, 2.0, 0.1)), jnp.zeros(2))
    after = step.state[1]
    assert not step.terminated
    assert float(step.measures["disengagements"]) == 1
    assert float(after.progress) > 50
    assert [float(x) for x in (after.offset, after.angle, after.speed, after.steering)] == [0, 0, 0, 0]


def test_features_say_where_the_car_is_and_how_the_road_bends_ahead():
    road = ROAD(jax.random.key(0))
    obs = np.asarray(FEATURES._observe(road, car(20, 0.5, -0.1, 1.0, 0.2)))
    bends = [float(road.curvature[20 + int(ahead)]) for ahead in AHEAD]
    own = [1.0 / FEATURES.max_speed, 0.2 / FEATURES.max_steering]
    np.testing.assert_allclose(obs, [0.5, -0.1, *bends, float(road.lane_width) / 2, *own], rtol=1e-5)


def test_constants_are_set_by_name_and_a_picture_has_the_size_that_is_asked_for():
    env = find("jax:Lane", {"height": 30, "width": 40, "lane_width": (3.0, 3.0), "curvature": 0.0})
    (road, _), obs = jax.jit(env.reset)(jax.random.key(0))
    assert obs["camera"].shape == (30, 40, 3)
    assert float(road.lane_width) == 3
    np.testing.assert_array_equal(road.centre.north, 0)


def test_the_picture_for_people_shows_the_view_and_a_map():
    state, _ = ENV.reset(jax.random.key(0))
    picture = ENV.draw(state)
    assert picture.shape == (360, 840, 3)
    red = (picture[:, 480:, 0].astype(int) - picture[:, 480:, 1]) > 120
    assert 20 < red.sum() < 2000  # the car on the map


def test_an_evaluation_ends_with_the_ratio_of_sums_and_says_where_it_is_undefined():
    fields = {"length": 20, "observation": "features", "safety_driver": True, "curvature": 0.1}
    agent = polyak.Agent("reproductions.driving:zero", "jax:Lane", env_fields=fields)
    played = agent.evaluate(4)
    sums = {name: float(value.sum()) for name, value in played.measures.items()}
    assert sums["disengagements"] > 0
    per = sums["distance"] / sums["disengagements"]
    assert played.summary()["metres_per_disengagement"] == pytest.approx(per)
    np.testing.assert_allclose(played.returns, played.measures["distance"], rtol=1e-5)
    np.testing.assert_allclose(played.measures["time"], played.lengths * 0.2, rtol=1e-4)
    played.measures["disengagements"][:] = 0
    with redirect_stdout(io.StringIO()) as said:
        say_evaluation("x", played)
    assert f"metres_per_disengagement: undefined ({sums['distance']:.3g} / 0)" in said.getvalue()


def test_a_line_of_the_table_counts_training_until_the_first_route_without_a_disengagement():
    def trained(count, metres, seconds):
        return {"episode/count": count, "episode/distance": metres, "episode/time": seconds}

    def evaluated(left):
        return {"eval/disengagements": left}

    def tested(left, metres):
        measures = {"disengagements": np.array(left), "distance": np.array(metres)}
        return Evaluation(np.zeros(len(left)), np.zeros(len(left)), measures, [0])

    line = table_row(
        [
            *(trained(3, 10.0, 30.0), {}, evaluated(2.0), trained(2, 50.0, 60.0)),
            *(evaluated(0.0), trained(5, 9.0, 9.0), evaluated(1.0)),
        ],
        tested([0.0, 2.0], [240.0, 240.0]),
    )
    assert line == (5, 3 * 10 + 2 * 50, 3 * 0.5 + 2, True, 1, 240)
    never = table_row(
        [trained(7, 1.0, 60.0), {**trained(1, 2.0, 60.0), **evaluated(4.0)}], tested([4.0], [250.4])
    )
    assert never == (8, 9, 8, False, 4, 250)  # the last step may lead beyond the route


def test_policies_are_ordered_by_disengagements_and_then_by_metres():
    good = {"random": (9.0, 100.0), "zero": (9.0, 120.0), "pixels": (1.0, 250.0), "encoder": (1.0, 250.0)}
    assert all(order(good).values())
    assert list(order({**good, "zero": (9.0, 100.0)}).values()) == [False, True, True]
    assert list(order({**good, "encoder": (1.5, 250.0)}).values()) == [True, True, False]


def test_of_several_seeds_a_figure_says_the_interval_and_each_seed():
    assert in_words(np.array([3.0]), 1) == "3.0"
    said = in_words(np.array([0.0, 0.0, 3.0]), 2)
    assert said.startswith("1.00 [0.00, ")
    assert said.endswith("] (0.00, 0.00, 3.00)")
    assert 1 < float(said.split("]")[0].split()[-1]) <= 3
