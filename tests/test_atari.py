"""Atari behind its preprocessing: beside a pipeline in float64 of our own, and EnvPool's beside Gymnasium's."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("ale_py")
pytest.importorskip("cv2")


import polyak
from polyak.algorithms import find as find_algorithm
from polyak.algorithms import names
from polyak.envs.find import find
from polyak.envs.trust import is_code
from polyak.errors import UserError
from polyak.runs.presets import default_config, preset
from reproductions.atari import GAMES, compared


@pytest.mark.parametrize("game", GAMES)
def test_frames_and_rewards_are_those_of_a_pipeline_in_float64_and_of_envpool(game):
    pytest.importorskip("envpool")
    largest, equal, rewarded = compared(game)
    assert largest <= 0.5 + 1e-6  # it rounds, to a whole number
    assert equal
    assert rewarded > 0


def test_they_are_bytes_and_the_same_task_by_both_names():
    spec = find("atari:Pong-v5").spec
    assert (spec.obs.shape, spec.obs.dtype, spec.time_limit) == ((4, 84, 84), "uint8", 27_000)
    pytest.importorskip("envpool")
    other = find("envpool:Pong-v5").spec
    assert (spec.obs, spec.action, spec.time_limit) == (other.obs, other.action, other.time_limit)


def until_a_life_is_lost(**fields):
    """Whether the step that lost the first life ended the episode."""
    env = find("atari:Breakout-v5", fields).make_one()
    env.reset(seed=0)
    lives = env.unwrapped.ale.lives()
    for _ in range(500):
        _, _, terminated, _, _ = env.step(0)
        if env.unwrapped.ale.lives() < lives:
            env.close()
            return terminated
    raise AssertionError("no life was lost")


def test_a_lost_life_ends_an_episode_only_where_that_is_asked_for():
    assert not until_a_life_is_lost()
    assert until_a_life_is_lost(episodic_life=True)


def test_fire_is_pressed_at_the_start_and_sticky_actions_are_a_choice():
    assert not find("atari:Pong-v5").make_one().unwrapped.ale.getFloat("repeat_action_probability")
    sticky = find("atari:Pong-v5", {"repeat_action_probability": 0.25}).make_one()
    assert sticky.unwrapped.ale.getFloat("repeat_action_probability") == pytest.approx(0.25)
    fired, waits = (
        find("atari:Breakout-v5", {"noop_max": 0, "use_fire_reset": fire}).make_one()
        for fire in (True, False)
    )
    frames = [env.reset(seed=0)[0] for env in (fired, waits)]
    assert (frames[0][-1] != frames[1][-1]).any()


def test_an_unknown_game_is_one_line_and_a_known_one_is_no_code():
    assert not is_code("atari:Pong-v5")
    with pytest.raises(UserError, match="did you mean 'Pong-v5'"):
        find("atari:Ping-v5")
    with pytest.raises(UserError, match="did you mean 'noop_max'"):
        find("atari:Pong-v5", {"noopmax": 3})


TUNED = [name for name in names() if "nature" in str(preset(name, "atari:Pong-v5").get("config"))]


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("game", GAMES)
def test_presets_are_for_pixels_with_clipped_rewards(name, game):
    for env in (f"envpool:{game}", f"atari:{game}"):
        cfg = default_config(name, preset(name, env))
        assert len(TUNED) >= 5
        assert "nature" in cfg.network
        assert cfg.hidden == [512] or cfg.hidden == (512,)
        assert cfg.data.clip == 1.0
        assert dataclasses.is_dataclass(cfg)
        assert find_algorithm(name).Config is type(cfg)


SMOKE = {
    "dqn": {"hidden": [8], "data": {"capacity": 64, "warmup": 16, "batch_size": 4}},
    "ppo": {"hidden": [8], "epochs": 1, "minibatch": 8, "data": {"steps": 8}},
}


@pytest.mark.parametrize("name", SMOKE)
def test_pong_is_trained_end_to_end_from_its_preset(name, tmp_path):
    run = polyak.train(
        name,
        "atari:Pong-v5",
        steps=48,
        num_envs=2,
        eval_every=0,
        config=SMOKE[name],
        out=str(tmp_path),
        name="smoke",
    )
    lines = [json.loads(line) for line in (tmp_path / "smoke" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["env_steps"] == 48
    assert lines[-1]["updates"] > 0
    losses = [value for key, value in lines[-1].items() if key.startswith("update/")]
    assert losses
    assert np.isfinite(losses).all()
    assert run is not None
