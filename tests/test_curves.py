"""The learning curves of the pages: what is trained for them, and that a picture shows what was measured."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import trim_mean

from polyak import algorithms
from polyak.envs.environment import Environment
from polyak.envs.find import find
from reproductions import curves
from reproductions.drawing import Curve, Target, as_json, draw, from_json, interval, outcome

SEEDS, PLACES = 5, 9


def several(seed: int = 0) -> Curve:
    """Five seeds that learn, each in its own way."""
    random = np.random.default_rng(seed)
    x = np.linspace(1_000, 9_000, PLACES)
    return Curve(x, x / 40 + random.normal(0, 20, (SEEDS, PLACES)), "environment steps", "return")


def elements(text: str, kind: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(text).iter() if each.get("class") == kind]


def pairs(element: ElementTree.Element) -> np.ndarray:
    """The points [P, 2] of a line."""
    return np.array([list(map(float, pair.split(","))) for pair in element.get("points", "").split()])


def number(label: str) -> float:
    return float(label.replace("\N{MINUS SIGN}", "-").replace(",", "").replace("k", "e3"))


def scales(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The lines (slope, constant) that turn places in a picture into numbers, as a reader finds them: by the axes."""
    across, down = [], []
    for each in ElementTree.fromstring(text).findall(".//{*}text"):
        if each.get("class") is None and re.fullmatch(r"[\N{MINUS SIGN}\d.,k]+", each.text or ""):
            place = across if each.get("text-anchor") == "middle" else down
            key = "x" if place is across else "y"
            place.append((float(each.get(key, "")) - 4 * (key == "y"), number(each.text or "")))
    return tuple(np.polyfit(*np.array(place).T, 1) for place in (across, down))  # type: ignore[return-value]


def test_the_thick_line_is_the_interquartile_mean_as_the_axes_read():
    curve = several()
    text = draw(curve, "title", "said")
    (line,) = elements(text, "iqm")
    across, down = scales(text)
    found = pairs(line)
    np.testing.assert_allclose(np.polyval(across, found[:, 0]), curve.x, atol=40)
    np.testing.assert_allclose(np.polyval(down, found[:, 1]), trim_mean(curve.values, 0.25), atol=1.5)


def test_thin_lines_are_the_seeds_and_the_band_is_the_interval():
    curve = several()
    text = draw(curve, "title", "said")
    _, down = scales(text)
    thin = [np.polyval(down, pairs(line)[:, 1]) for line in elements(text, "seed")]
    np.testing.assert_allclose(thin, curve.values, atol=1.5)
    (band,) = elements(text, "band")
    read = np.polyval(down, pairs(band)[:, 1])
    low, high = (np.clip(end, curve.values.min(), curve.values.max()) for end in interval(curve))
    np.testing.assert_allclose(read, [*high, *low[::-1]], atol=1.5)


def test_no_interval_goes_beyond_the_most_there_is():
    curve = several()._replace(target=Target(230.0, "the most", most=True))
    curve = curve._replace(values=np.minimum(curve.values, 230.0))
    _, high = interval(curve)
    assert interval(curve._replace(target=None))[1].max() > 230
    assert high.max() <= 230


@pytest.mark.parametrize(("seeds", "bands", "said"), [(1, 0, "1 seed"), (2, 0, "2 seeds"), (3, 1, "3 seeds")])
def test_few_seeds_have_no_interval_and_the_picture_says_how_many_they_are(seeds, bands, said):
    curve = several()
    text = draw(curve._replace(values=curve.values[:seeds]), "title", "said")
    assert len(elements(text, "band")) == bands
    assert f">{said}" in text
    assert ("interval" in text) == bool(bands)


def test_the_target_is_a_dashed_line_at_its_value():
    text = draw(several()._replace(target=Target(100.0, "a <target>")), "title", "said & done")
    (line,) = elements(text, "target")
    assert np.polyval(scales(text)[1], float(line.get("y1", ""))) == pytest.approx(100, abs=1.5)
    root = ElementTree.fromstring(text)
    assert "a <target>" in {each.text for each in root.findall(".//{*}text")}
    assert root.findtext("{*}desc") == "said & done"


def test_what_is_kept_of_a_curve_is_the_curve():
    curve = several()._replace(target=Target(1.0, "x", most=True), how='"quoted"', log=True)
    again = from_json(as_json(curve))
    np.testing.assert_allclose(again.values, curve.values, rtol=1e-5)
    np.testing.assert_array_equal(again.x, curve.x)
    assert again._replace(x=0, values=0) == curve._replace(x=0, values=0)


def test_the_outcome_is_the_first_and_the_last_interquartile_mean():
    curve = several()
    middle = trim_mean(curve.values, 0.25)
    first, last = re.search(r"^Return: ([\d.]+) at first, ([\d.]+) \[", outcome(curve)).groups()
    assert (float(first), float(last)) == (
        pytest.approx(middle[0], rel=5e-3),
        pytest.approx(middle[-1], rel=5e-3),
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in curves.PICTURES.glob("*.json")))
def test_a_picture_is_drawn_from_what_is_kept(name):
    kept = curves.PICTURES / f"{name}.json"
    picture = kept.with_suffix(".svg").read_text(encoding="utf-8")
    assert picture == curves.picture(name, from_json(kept.read_text(encoding="utf-8"))), (
        "draw it again: python -m reproductions.curves --redraw"
    )


@pytest.mark.parametrize("name", algorithms.names())
def test_what_is_trained_for_a_curve_is_a_world_in_jax(name):
    task = curves.settled(name)
    assert curves.budget_of(task)[1] > 0
    assert isinstance(find(task.env), Environment)


def test_the_program_trains_and_draws_and_says_what_came_of_it(tmp_path, monkeypatch, capsys):
    name = next(
        name for name, task in curves.TASKS.items() if task == curves.STEPS
    )  # it learns a maze at once
    task = curves.settled(name)._replace(steps=600, seeds=3)
    monkeypatch.setitem(curves.TASKS, name, task)
    assert curves.main([name, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{name}: ")
    text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    said = ElementTree.fromstring(text).findtext("{*}desc", "")
    assert f"`polyak train {name} jax:DynaMaze-v0 --steps 600 --seeds 3`" in said
    last = number(re.search(r"([\d.]+) \[.*\] at the end", said)[1])
    (line,) = elements(text, "iqm")
    assert np.polyval(scales(text)[1], pairs(line)[-1, 1]) == pytest.approx(last, abs=2)
    assert last < 20  # the shortest way has 14 steps


def test_an_algorithm_that_is_none_is_named(capsys):
    with pytest.raises(SystemExit):
        curves.main(["dqm"])
    assert "dqm" in capsys.readouterr().err
