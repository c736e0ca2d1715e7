"""Settings of somebody's own environments, algorithms and callbacks are converted and checked like ours."""

import functools
import itertools
from typing import Any, Literal

import gymnasium
import own_settings
import pytest

import polyak
from polyak import algorithms, flags
from polyak.cli import main
from polyak.envs.constructors import as_annotated, fitted
from polyak.envs.find import find
from polyak.errors import UserError
from polyak.runs.decide import settings_of
from polyak.runs.presets import default_config
from polyak.runs.values import amend, check_settable


def made(name, **said):
    """What a constructor was given for words of a command line."""
    own_settings.MADE.clear()
    find(f"own_settings:{name}", flags.literals(said))
    return own_settings.MADE[-1]


@pytest.mark.parametrize(
    ("name", "field", "word", "value"),
    [
        ("Typed", "size", "1e5", 100_000),
        ("Typed", "gain", "3", 3.0),
        ("Typed", "wind", "yes", True),
        ("Typed", "wind", "0", False),
        ("Typed", "word", "b", "b"),
        ("Typed", "word", '"3"', "3"),
        ("Typed", "kind", "b", "b"),
        ("Typed", "gains", "1,2", (1.0, 2.0)),
        ("Typed", "gains", "7,", (7.0,)),
        ("Typed", "limit", "None", None),
        ("Typed", "limit", "7", 7),
        ("Typed", "loose", "abc", "abc"),
        ("Typed", "loose", "1.5", 1.5),
        ("Typed", "broken", "0.25", 0.25),
        ("Inherits", "size", "5", 5),
        ("Fields", "gain", "2", 2.0),
        ("made", "size", "5", 5),
    ],
)
def test_a_word_becomes_what_the_annotation_says(name, field, word, value):
    given = made(name, **{field: word})[field]
    assert given == value
    assert type(given) is type(value)
    assert all(type(a) is type(b) for a, b in zip(*map(as_list, (given, value)), strict=True))


def as_list(value):
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize(
    ("name", "field", "word", "says"),
    [
        ("Typed", "size", "abc", "size must be a whole number, not 'abc'"),
        ("Typed", "size", "2.5", "size must be a whole number, not 2.5"),
        ("Typed", "size", "true", "size must be a whole number, not True"),
        ("Typed", "gain", "fast", "gain must be a number, not 'fast'"),
        ("Typed", "gain", "true", "gain must be a number, not True"),
        ("Typed", "wind", "maybe", "wind must be true or false, not 'maybe'"),
        ("Typed", "word", "3", 'word must be text, with "quotes" around it where it looks like more, not 3'),
        ("Typed", "kind", "c", "kind must be one of a, b, not 'c'"),
        ("Typed", "gains", "3", "gains must be a list, as in 1,2, not 3"),
        (
            "Typed",
            "gains",
            "[1,null]",
            "gains must be a list, each of whose entries is a number, not [1, None]",
        ),
        ("Typed", "limit", "x", "limit must be a whole number or None, not 'x'"),
        ("Typed", "sizes", "3", "has no field 'sizes'; did you mean 'size'?"),
        ("Inherits", "size", "abc", "size must be a whole number"),
        ("Inherits", "extra", "abc", "extra must be a whole number"),
        ("Inherits", "sizes", "3", "has no field 'sizes'; did you mean 'size'?"),
        ("HalfKnown", "size", "abc", "size must be a whole number"),
        ("Fields", "size", "abc", "size must be a whole number"),
        ("Fields", "gian", "3", "has no field 'gian'; did you mean 'gain'?"),
        ("made", "size", "abc", "size must be a whole number"),
    ],
)
def test_another_word_is_one_line_that_names_the_field(name, field, word, says):
    with pytest.raises(UserError) as error:
        made(name, **{field: word})
    assert f"own_settings:{name}" in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(UserError, match=r"size must be a whole number.*; gain must be a number"):
        made("Typed", size="abc", gain="x")


def test_a_class_as_it_is_and_a_partial_of_it_are_checked_too():
    for given in (own_settings.Typed, functools.partial(own_settings.Typed, gain=2.0)):
        with pytest.raises(UserError, match="size must be a whole number"):
            find(given, {"size": "abc"})
        find(given, {"size": 4})


def test_hints_are_followed_as_far_as_they_say_something():
    assert fitted([1, [2, 3]], list) == [1, [2, 3]]
    assert fitted([[1, 2], [3]], list[tuple[int, ...]]) == [(1, 2), (3,)]
    assert fitted("x", Any) == "x"
    assert fitted("x", gymnasium.Env) == "x"
    assert fitted(1, bool | int) == 1
    assert fitted(1, Literal["a", 1]) == 1
    for value, hint in ((True, Literal[1]), ([1], tuple[int, int]), ("a", None), (None, str), (2.0, int)):
        with pytest.raises(ValueError, match=r"1|a list of 2|None|text|whole"):
            fitted(value, hint)


def test_no_annotation_of_gymnasiums_refuses_what_its_registry_says():
    looked = 0
    for spec in gymnasium.registry.values():
        entry: Any = spec.entry_point
        if str(entry).startswith(("gymnasium.envs.classic_control", "gymnasium.envs.toy_text")):
            creator = gymnasium.envs.registration.load_env_creator(entry)
            assert as_annotated(spec.id, creator, spec.kwargs, spec.kwargs) == spec.kwargs
            looked += bool(spec.kwargs)
    assert looked > 3


def test_an_optional_constant_of_a_jax_environment_is_checked_by_its_annotation():
    assert find("jax:CartPole-v1", {"time_limit": 7}).time_limit == 7
    with pytest.raises(UserError, match="time_limit must be"):
        find("jax:CartPole-v1", {"time_limit": "soon"})


def test_the_command_line_says_it_in_one_line(capsys, tmp_path):
    line = f"train ppo own_settings:Typed --steps 64 --out {tmp_path} --env.size abc"
    assert main(line.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == ["polyak: environment own_settings:Typed: size must be a whole number, not 'abc'"]


# ---- algorithms


@pytest.mark.parametrize(
    ("name", "word", "says"),
    [
        ("width", "abc", "width is 'abc', but must be a whole number"),
        ("width", "2.5", "width is '2.5', but must be a whole number"),
        ("speed", "x", "speed is 'x', but must be a number"),
        ("on", "maybe", "on is 'maybe', but must be true or false"),
        ("mode", "c", "mode is 'c', but must be one of a, b"),
        ("widths", "3", "did you mean 'width'?"),
    ],
)
def test_settings_of_ones_own_algorithm_are_checked(name, word, says):
    config = default_config("own_settings:own", {})
    with pytest.raises(UserError, match=says):
        amend(config, {name: word}, "config.")
    assert amend(config, {"width": "1e3", "on": "yes"}).width == 1000


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lists", r"knots is annotated with list\[float\], but must be int, .*; extra is annotated with Any"),
        ("unresolved", "an annotation cannot be resolved: name 'Thing' is not defined"),
        ("no_data", "Config has no data: give it a field `data: OnPolicy` or `data: Replay`"),
        ("thawed", "must be a dataclass with @dataclass"),
        ("raises", r"Config\(\) cannot be made: RuntimeError: no robot at .*own_settings.py"),
        ("Settings", "own_settings:Settings is a class, but an algorithm is a record"),
    ],
)
def test_a_config_that_cannot_be_one_is_one_line(name, says, capsys, tmp_path):
    line = f"train own_settings:{name} jax:CartPole-v1 --steps 64 --out {tmp_path}"
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    with pytest.raises(UserError, match=says):
        raise UserError(said)


def test_our_own_configs_pass_what_a_users_has_to():
    for name in algorithms.names():
        check_settable(algorithms.find(name).Config, name)


# ---- callbacks


def test_a_callback_that_cannot_take_an_event_is_refused_before_the_run(tmp_path):
    for wrong in (lambda: None, lambda event, other: None, "print"):
        with pytest.raises(UserError, match=r"on_log .*must be a function of one event"):
            polyak.train("ppo", "jax:CartPole-v1", steps=64, out=str(tmp_path), on_log=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "meant"), [("on_logg", "on_log"), ("on_eval", "on_evaluation"), ("callbacks", "")]
)
def test_a_callback_that_there_is_not_names_the_nearest(word, meant):
    with pytest.raises(UserError, match=f"there is no callback '{word}': .*{meant}"):
        settings_of("ppo", {word: print})


def test_every_word_for_a_number_is_the_same_number_in_every_place():
    for word, hint in itertools.product(("3", "1e3", "1_000"), (int, float)):
        value = fitted(flags.literal(word), hint)
        assert value == amend(default_config("own_settings:own", {}), {"speed": word}).speed
