"""Actions that are kept for several frames, an early end, and pictures made small: against plain loops."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces as gs

import polyak
from polyak.envs.decisions import averages
from polyak.envs.find import find
from polyak.errors import UserError
from polyak.runs.presets import note_of, preset_fields


class Slides(gymnasium.Env):
    """Random pictures in colour, rewards of 1, 0 or -1, and an end after about twenty frames."""

    observation_space = gs.Box(0, 255, (9, 8, 3), np.uint8)
    action_space = gs.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame = 0
        return self.picture(), {}

    def step(self, action):
        self.frame += 1
        reward = float(self.np_random.integers(3) - 1)
        ended = bool(self.np_random.random() < 0.05)
        action[:] = 99  # an environment may write to what it is given
        return self.picture(), reward, ended, False, {"frame": self.frame}

    def picture(self):
        return self.np_random.integers(256, size=(9, 8, 3)).astype(np.uint8)


class Short(Slides):
    """The same spaces; seven frames, each of which earns 1."""

    def step(self, action):
        self.frame += 1
        return self.picture(), 1.0, self.frame == 7, False, {}


def episodes_of(name, repeat, decisions, seed, **fields):
    """A plain loop: [(obs, reward, terminated, truncated)] of so many decisions, and the first observations."""
    env, rng = find(name, fields).make_one(), np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    begun, rows = [obs], []
    for _ in range(decisions):
        action, earned = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32), 0.0
        for _ in range(repeat):
            obs, reward, terminated, truncated, _ = env.step(action.copy())
            earned += float(reward)
            if terminated or truncated:
                break
        rows.append((obs, earned, terminated, truncated and not terminated))
        if terminated or truncated:
            obs, _ = env.reset(seed=seed)
            begun.append(obs)
    env.close()
    return begun, rows


@pytest.mark.parametrize(
    ("name", "fields", "low"),
    [("Pendulum-v1", {"max_episode_steps": 10}, 1), ("test_decisions:Slides", {}, 4)],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_action_that_is_kept_is_a_plain_loop_over_frames(name, fields, low, asynchronous):
    repeat, decisions, seed = 4, 24, 3
    begun, rows = episodes_of(name, repeat, decisions, seed, **fields)
    factory = find(name, {**fields, "action_repeat": repeat})
    assert factory.spec.time_limit == (3 if fields else None)  # 4, 4 and 2 frames
    envs, rng = factory.make(1, asynchronous), np.random.default_rng(seed)
    firsts, ends = [envs.reset([0], [seed])[0].copy()], 0
    for obs, earned, terminated, truncated in rows:
        action = rng.uniform(-1, 1, envs.spec.action.shape).astype(np.float32)
        step = envs.step(action[None])
        assert np.array_equal(step.obs[0], np.asarray(obs, step.obs.dtype))
        assert step.reward[0] == pytest.approx(earned, rel=1e-12)
        assert (step.terminated[0], step.truncated[0]) == (terminated, truncated)
        if terminated or truncated:
            ends += 1
            firsts.append(envs.reset([0], [seed])[0].copy())
    envs.close()
    assert ends >= low
    assert all(np.array_equal(a, np.asarray(b, a.dtype)) for a, b in zip(firsts, begun, strict=True))


def test_a_pool_whose_lanes_end_within_a_decision_plays_each_lane_as_a_plain_loop():
    repeat, seeds, rng = 3, [5, 6, 7], np.random.default_rng(0)
    kept = find("envpool:CartPole-v1", {"action_repeat": repeat, "max_episode_steps": 200})
    assert kept.spec.time_limit == 67
    envs = kept.make(3)
    plain = [find("envpool:CartPole-v1", {"max_episode_steps": 200}).make(1) for _ in seeds]
    first = envs.reset(range(3), seeds)
    begun = [lane.reset([0], [seed]) for lane, seed in zip(plain, seeds, strict=True)]
    assert np.array_equal(first, np.concatenate(begun))
    within, action = 0, np.ones(3, int)
    for _ in range(60):
        action = np.where(rng.random(3) < 0.3, 1 - action, action)
        step = envs.step(action)
        for lane, env in enumerate(plain):
            earned = 0.0
            for frame in range(repeat):
                one = env.step(action[[lane]])
                earned += one.reward[0]
                if one.terminated[0] or one.truncated[0]:
                    within += frame < repeat - 1
                    break
            assert np.array_equal(step.obs[lane], one.obs[0])
            given = step.reward[lane], step.terminated[lane], step.truncated[lane]
            assert given == (earned, one.terminated[0], one.truncated[0])
        over = np.flatnonzero(step.terminated | step.truncated)
        again = envs.reset(over, [0] * over.size)
        for lane in over:
            assert np.array_equal(again[lane], plain[lane].reset([0], [0])[0])
    for env in (envs, *plain):
        env.close()
    assert within > 5


@pytest.mark.parametrize(
    ("name", "fields"), [("jax:CartPole-v1", {}), ("jax:Lane", {"observation": "features"})]
)
def test_in_graph_an_action_that_is_kept_is_a_plain_loop_over_frames(name, fields):
    repeat, plain = 3, find(name, fields)
    env, limit = find(name, {**fields, "action_repeat": repeat}), plain.spec.time_limit
    assert env.spec.time_limit == -(-limit // repeat)
    frame, decide, rng = jax.jit(plain.step), jax.jit(env.step), np.random.default_rng(0)
    within = 0
    for episode in range(4):
        (count, state), _ = env.reset(jax.random.key(episode))
        count = count + (
            limit - 4 if episode == 3 else 0
        )  # the last episode begins two decisions before its limit
        given, frames, over = (count, state), int(count), False
        while not over:
            space, key, again = plain.spec.action, *map(jax.random.key, [rng.integers(2**31)] * 2)
            action = rng.integers(2) if name == "jax:CartPole-v1" else np.full(space.shape, 1.0, np.float32)
            step, earned, sums = decide(given, action, key), 0.0, {}
            for number, each in enumerate(jax.random.split(again, repeat)):
                one = frame(state, action, each)
                state, frames, earned = one.state, frames + 1, earned + float(one.reward)
                for measure, value in one.measures.items():
                    joined = sums.get(measure, 0.0) if plain.spec.measures[measure] == "sum" else 0.0
                    sums[measure] = joined + float(value)
                over = bool(one.terminated | one.truncated) or frames == limit
                if over:
                    within += number < repeat - 1
                    break
            given = step.state
            assert int(given[0]) == frames
            assert float(step.reward) == pytest.approx(earned, rel=1e-5)
            assert bool(step.terminated) == bool(one.terminated)
            same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), step.obs, one.obs)
            assert all(jax.tree.leaves(same))
            assert {m: float(v) for m, v in step.measures.items()} == pytest.approx(sums, rel=1e-4)
    assert within > 0


def small(frame, crop, size):
    """A grey picture of a frame [H, W, 3] in float64, pixel by pixel."""
    top, bottom, left, right = crop
    frame = np.asarray(frame, float)[top : len(frame) - bottom, left : frame.shape[1] - right]
    grey = 0.299 * frame[..., 0] + 0.587 * frame[..., 1] + 0.114 * frame[..., 2]
    high, wide = grey.shape[0] / size, grey.shape[1] / size
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for r in range(grey.shape[0]):
                for c in range(grey.shape[1]):
                    tall = max(0.0, min((i + 1) * high, r + 1) - max(i * high, r))
                    broad = max(0.0, min((j + 1) * wide, c + 1) - max(j * wide, c))
                    out[i, j] += tall * broad * grey[r, c] / (high * wide)
    return out


def test_pictures_are_cut_grey_small_and_stacked_oldest_first_from_each_reset():
    crop, size, repeat = (0, 2, 1, 0), 4, 2
    fields = {"picture.crop": list(crop), "picture.grey": True, "picture.size": size, "picture.stack": 3}
    factory = find("test_decisions:Slides", {**fields, "action_repeat": repeat})
    assert factory.spec.obs.shape == (3, size, size)
    begun, rows = episodes_of("test_decisions:Slides", repeat, 24, seed=3)
    envs = factory.make(1)
    stack = [small(begun[0], crop, size)] * 3
    seen, ends = envs.reset([0], [3])[0], 0
    for obs, _, terminated, _ in rows:
        assert seen.dtype == np.uint8
        assert np.abs(seen - np.stack(stack)).max() <= 0.5 + 1e-4
        stack = [*stack[1:], small(obs, crop, size)]
        step = envs.step(np.zeros((1, 2), np.float32))
        seen = step.obs[0]
        assert np.abs(seen - np.stack(stack)).max() <= 0.5 + 1e-4
        if terminated:
            ends += 1
            seen, stack = envs.reset([0], [3])[0], [small(begun[ends], crop, size)] * 3
    assert ends > 1


def test_colours_follow_one_another_in_a_stack_and_nothing_else_changes():
    factory = find("test_decisions:Slides", {"picture.stack": 2})
    envs = factory.make(1)
    before = envs.reset([0], [1])[0]
    plain = find("test_decisions:Slides").make_one()
    obs, _ = plain.reset(seed=1)
    assert np.array_equal(before, np.concatenate([np.moveaxis(obs, -1, 0)] * 2))
    after, *_ = plain.step(np.zeros(2, np.float32))
    seen = envs.step(np.zeros((1, 2), np.float32)).obs[0]
    assert np.array_equal(seen, np.concatenate([np.moveaxis(obs, -1, 0), np.moveaxis(after, -1, 0)]))


def test_each_line_of_averages_sums_to_one_and_leaves_a_constant_as_it_is():
    for many, few in ((84, 42), (96, 42), (5, 3), (7, 7)):
        matrix = averages(many, few)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(matrix.sum(axis=0), few / many, atol=1e-6)


def test_patience_cuts_an_episode_that_has_earned_nothing_for_so_many_decisions():
    patience = 3
    envs = find("test_decisions:Slides", {"patience": patience}).make(1)
    plain = find("test_decisions:Slides").make(1)
    idle, cuts = 0, 0
    for each in (envs, plain):
        each.reset([0], [2])
    for seed in range(200):
        step, one = (each.step(np.zeros((1, 2), np.float32)) for each in (envs, plain))
        idle = 0 if one.reward[0] > 0 else idle + 1
        assert step.reward[0] == one.reward[0]
        assert step.terminated[0] == one.terminated[0]
        assert step.truncated[0] == (idle >= patience and not one.terminated[0])
        cuts += step.truncated[0]
        if step.terminated[0] or step.truncated[0]:
            idle = 0
            for each in (envs, plain):
                each.reset([0], [seed])
    assert cuts > 5


def test_a_pool_has_the_same_patience():
    envs = find("envpool:CarRacing-v3", {"patience": 4, "action_repeat": 2, "picture.size": 12}).make(2)
    envs.reset([0, 1], [0, 1])
    lasted = np.zeros(2, int)
    for _ in range(60):  # standing still, once the tiles under the car are counted
        lasted += 1
        step = envs.step(np.zeros((2, 3), np.float32))
        if step.truncated.all():
            break
    envs.close()
    assert step.obs.shape == (2, 3, 12, 12)
    assert step.truncated.all()
    assert lasted.max() <= 8


def test_a_run_of_decisions_resumes_to_the_same_bits_and_plays_in_another_environment(tmp_path):
    said = {
        "config": {"hidden": (8,), "epochs": 1, "data": {"steps": 8}},
        "env_fields": {"action_repeat": 3, "patience": 5, "picture.grey": True, "picture.stack": 2},
        "num_envs": 2,
        "eval_every": 0,
        "checkpoint_every": 16,
        "out": tmp_path,
        "verbose": False,
        "preset": False,
    }
    whole = polyak.train("ppo", "test_decisions:Slides", steps=64, name="whole", **said)
    elsewhere = whole.on("test_decisions:Short")  # 3, 3 and 1 frames, with the run's own settings
    played = elsewhere.evaluate(2)
    assert played.returns.tolist() == [[7.0, 7.0]]
    assert played.lengths.tolist() == [[3, 3]]
    with pytest.raises(UserError, match="settings are for pictures"):
        whole.on("Pendulum-v1").evaluate(1)
    with pytest.raises(UserError, match=r"was trained on test_decisions:Slides, and goes on there alone"):
        elsewhere.resume(steps=96)
    part = polyak.train("ppo", "test_decisions:Slides", steps=32, name="part", **said)
    longer = part.resume(steps=64)
    equal = jax.tree.map(np.array_equal, whole.state(), longer.state())
    assert all(jax.tree.leaves(equal))


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("Pendulum-v1", {"action_repeat": 0}, "action_repeat must be at least 1, not 0"),
        ("Pendulum-v1", {"action_repeat": 1.5}, "action_repeat must be a whole number, not 1.5"),
        ("envpool:CartPole-v1", {"patience": -1}, "patience must be at least 0"),
        (
            "jax:Pendulum-v1",
            {"action_repeat": 0},
            "action_repeat must be a whole number of at least 1, not 0",
        ),
        ("jax:Reach", {"action_repeat": 2}, "not for environments with goals"),
        ("jax:ConnectFour", {"action_repeat": 2}, "not for environments with 2 players"),
        ("Pendulum-v1", {"picture.gray": True}, "did you mean 'picture.grey'"),
        ("Pendulum-v1", {"picture.grey": True}, "settings are for pictures"),
        ("envpool:CartPole-v1", {"picture.stack": 2}, "settings are for pictures"),
        ("test_decisions:Slides", {"picture.crop": [5, 4, 0, 0]}, "crop leaves nothing of pictures of 9 x 8"),
    ],
)
def test_a_setting_that_means_nothing_is_one_line(name, fields, says):
    with pytest.raises(UserError, match=says) as raised:
        find(name, fields)
    assert "\n" not in str(raised.value)


def test_a_constructor_keeps_its_own_setting_of_that_name():
    def make(action_repeat: int = 2) -> gymnasium.Env:
        env = gymnasium.make("Pendulum-v1")
        env.unwrapped.own = action_repeat
        return env

    assert find(make, {"action_repeat": 7}).make_one().unwrapped.own == 7


def test_a_film_shows_decisions_as_slowly_as_they_are_taken():
    from polyak.show.video import Painter

    env = find("Pendulum-v1", {"action_repeat": 3}).make_one("rgb_array")
    assert Painter(env).fps == pytest.approx(env.unwrapped.metadata["render_fps"] / 3)
    env.close()


def test_what_a_preset_makes_of_an_environment_gives_way_and_is_said():
    tuned = {"source": "somewhere", "env": {"action_repeat": 8, "grey": True}, "eval_env": {"patience": 0}}
    fields, evaluation = preset_fields(tuned, {"action_repeat": 4}, None)
    assert (fields, evaluation) == ({"action_repeat": 4, "grey": True}, {"patience": 0})
    assert preset_fields({}, None, None) == ({}, None)
    said = "somewhere; it sets --env.action_repeat 8 --env.grey true --eval-env.patience 0 (--no-preset"
    assert note_of(tuned).startswith(said)


def test_ppo_sees_car_racing_as_its_preset_says_and_is_judged_by_whole_episodes():
    from polyak.runs.beginning import plan_run
    from polyak.runs.plan import Settings

    for name in ("envpool:CarRacing-v3", "CarRacing-v3"):
        session, note = plan_run("ppo", name, Settings())
        assert session.env_spec.obs.shape == (4, 52, 52)
        assert session.env_spec.time_limit == 125
        assert (session.plan.env_fields["patience"], session.eval_fields["patience"]) == (12, 0)
        assert "--env.action_repeat 8" in note
    bare, note = plan_run("ppo", "CarRacing-v3", Settings(preset=False))
    assert (bare.env_spec.obs.shape, bare.plan.env_fields, note) == ((96, 96, 3), {}, "")
