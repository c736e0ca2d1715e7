"""`polyak report`: what is compared, what a folder from a stranger can do to the page, and how a browser sees it."""

import base64
import csv
import hashlib
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from attacks import Watch, canary
from chromium import Page, find_chromium

from polyak import CheckpointError, Run, UserError, cli
from polyak.runs.folder import RunFolder
from polyak.runs.plan import Plan
from polyak.runs.report import look, report, verdict
from polyak.show.groups import elapsed
from polyak.show.page import counts
from polyak.show.video import write_video

STEPS = 1_000
WATCH = Watch()


def values(seeds, level, spread=0.1):
    """Final returns around a level, the same in every test."""
    return level + spread * level * np.linspace(-1, 1, seeds) if seeds > 1 else np.array([float(level)])


def make(root, name, algorithm="td3", env="Pendulum-v1", level=100.0, seeds=5, more=(), **plan):
    """A run folder, as training leaves it but for its checkpoints.

    level  final return, or one for each seed
    more   lines that are written after the others
    """
    until, points, spread = (
        plan.pop(word, usual) for word, usual in (("until", 1.0), ("points", 10), ("spread", 0.1))
    )
    plan = Plan(
        algorithm, env, **{"steps": STEPS, "seeds": seeds, "eval_every": 100, "config": {"lr": 0.1}, **plan}
    )
    folder = RunFolder(root / name)
    folder.create(plan, "", "cpu")
    goals = level if isinstance(level, list | np.ndarray) else values(seeds, level, spread)
    lines = []
    for point in range(1, round(points * until) + 1):
        step = plan.steps * point // points
        for seed, goal in zip(plan.all_seeds, goals, strict=True):
            mark = {"env_steps": step, "updates": point, "seed": seed}
            loss = {"update/critic_loss": float(10.0**-point), "time/unix_s": 1e9 + 2 * point}
            lines.append(
                {**mark, "episode/return": goal * point / points - 1, "episode/length": 200.0, **loss}
            )
            lines.append(
                {**mark, "eval/return": goal * point / points, "eval/return_std": 0.0, "eval/episodes": 10}
            )
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *more])
    folder.metrics_path.write_text(text)
    return folder.path


class Parsed(HTMLParser):
    """What a browser makes of a page: tags, attributes, and the text outside scripts."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.scripts, self.inside = [], [], "", [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data + " "


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(paths):
    """What would be on the page about these runs: how much is compared, the verdict, the notes."""
    seen = look(paths)
    return SimpleNamespace(
        comparison=seen.comparison,
        steps=[world.step for world in seen.comparison.worlds],
        seeds=counts(seen.comparison),
        verdict=" ".join(verdict(seen.comparison)),
        notes=" | ".join([*seen.left_out, *seen.comparison.notes]),
    )


# ---- the verdict


def test_a_better_algorithm_is_named_with_its_probability_and_interval(here):
    page = said([make(here, "a", "td3", level=100, seeds=10), make(here, "b", "dqn", level=60, seeds=10)])
    assert page.verdict == (
        "td3 is better than dqn with probability 1.00 [0.80, 1.00]. Interquartile means: td3 100.0, dqn 60."
    )
    assert page.notes == ""


def test_two_that_overlap_cannot_be_told_apart(here):
    page = said([make(here, "a", "td3", level=100), make(here, "b", "dqn", level=99)])
    assert re.fullmatch(
        r"td3 and dqn cannot be told apart: td3 is better with probability 0\.\d\d \[0\.\d\d, 0\.\d\d\]\. .*",
        page.verdict,
    )


def test_with_three_seeds_each_it_says_that_there_are_too_few(here):
    page = said([make(here, "a", "td3", seeds=3), make(here, "b", "dqn", level=10, seeds=3)])
    assert page.verdict.startswith("Too few seeds to say whether td3 is better than dqn: with 3 and 3,")
    assert "10 % of cases" in page.verdict


def test_one_algorithm_has_its_interquartile_mean_and_one_seed_no_interval(here):
    page = said([make(here, "a", level=[100.0, 100, 100, 100, 500, 100, 100, 100], seeds=8)])
    assert page.verdict.startswith("td3 returns 100.0 [100.0,")
    assert "interquartile mean of 8 seeds" in page.verdict
    assert "with one seed: too few to say" in said([make(here, "b", seeds=1)]).verdict


def test_over_environments_returns_are_scaled_in_each_and_order_is_what_counts(here):
    paths = [
        make(here, f"{algorithm}-{env}", algorithm, env, level=level * scale)
        for env, scale in (("Pendulum-v1", 1), ("Ant-v5", 1_000), ("Hopper-v5", 10))
        for algorithm, level in (("td3", 3), ("dqn", 2))
    ]
    page = said([*paths, make(here, "alone", "ppo", "Ant-v5", level=1)])
    assert page.verdict.startswith("over 3 environments: td3 is better than dqn with probability 1.00 [")
    assert "left out over all environments, since they are not in each: ppo" in page.notes
    scores = page.comparison.overall.scores
    assert list(scores) == ["td3", "dqn"]
    for each in scores["td3"], scores["dqn"]:  # 1.8 to 3.3 of the algorithms that are in each environment
        np.testing.assert_allclose(each, [(each[0] if len(each[0]) else 0)] * 3)
    assert max(scores["td3"][0]) == pytest.approx(1)
    assert min(scores["dqn"][0]) == pytest.approx(0)


# ---- what belongs together, and what is compared with what


def test_runs_with_the_same_settings_are_more_seeds_and_other_settings_another_group(here):
    same = [make(here, "a", seeds=3), make(here, "b", seeds=3, seed=3)]
    page = said([*same, make(here, "c", level=50, seeds=6, config={"lr": 0.2})])
    assert page.verdict.startswith("td3: lr=0.1 is better than td3: lr=0.2 with probability 1.00")
    assert page.seeds == "3 runs, 12 seeds, 1 environment"


def test_a_seed_that_is_there_twice_counts_once(here):
    page = said([make(here, "a", seeds=4), make(here, "b", seeds=4, seed=2)])
    assert "2 runs, 6 seeds" in page.seeds
    assert "b: seed 2, 3 with the same settings is there already, from a; taken once" in page.notes


def test_other_constants_are_another_environment_and_never_compared(here):
    page = said([make(here, "a"), make(here, "b", "dqn", env_fields={"g": 5.0})])
    assert "2 environments" in page.seeds
    assert "Pendulum-v1 (g=5.0): dqn returns" in page.verdict
    assert "better" not in page.verdict


def test_different_budgets_are_compared_where_the_shorter_ends(here):
    page = said([make(here, "a", "td3", level=100), make(here, "b", "dqn", level=60, steps=2 * STEPS)])
    assert page.steps == [1_000]
    assert "compared after 1,000 steps, where the shortest ends; dqn (2,000) went further" in page.notes
    assert page.verdict.startswith("td3 is better than dqn with probability 1.00")  # 100 against 30
    (dqn,) = (group for group in page.comparison.worlds[0].groups if group.label == "dqn")
    np.testing.assert_allclose(dqn.scores, values(5, 60) / 2)


def test_an_unfinished_run_is_shown_and_not_compared_with_finished_ones(here):
    finished = [make(here, "a"), make(here, "b", "dqn", level=90)]
    page = said([*finished, make(here, "c", "ppo", level=900, until=0.5)])
    assert "c is not finished (500 of 1,000 steps)" in page.notes
    assert "ppo" not in page.verdict
    assert "15 seeds" in page.seeds
    assert page.steps == [1_000]


@pytest.mark.parametrize(("stop_at", "finished"), [(50.0, True), (51.0, False)])
def test_a_run_that_reached_its_return_is_finished(here, stop_at, finished):
    page = said(
        [make(here, "a"), make(here, "b", "dqn", until=0.5, stop_at=stop_at)]
    )  # 50 in the mean by then
    assert ("b is not finished" not in page.notes) is finished


def test_of_unfinished_runs_alone_the_common_steps_are_compared(here):
    page = said([make(here, "a", until=0.5), make(here, "b", "dqn", level=20, until=0.8)])
    assert page.steps == [500]
    assert page.verdict.startswith("td3 is better than dqn")


def test_a_run_without_evaluations_is_not_compared_with_one_that_has_them(here):
    path = make(here, "a", "dqn", level=900)
    lines = [line for line in RunFolder(path).metrics() if "eval/return" not in line]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = said([path, make(here, "b")])
    assert "dqn was never evaluated, and is not compared with what was" in page.notes
    assert page.verdict.startswith("td3 returns")
    page = said([path])
    assert "nothing was evaluated, so that training returns, with exploration, are shown" in page.notes
    assert page.verdict.startswith("dqn returns in training 899.0 [")  # of the last tenth of the steps


def test_evaluations_that_are_no_numbers_are_left_out_and_counted(here):
    more = [{"env_steps": 1_000, "seed": 0, "updates": 10, "eval/return": None, "eval/return_std": None}]
    assert "a: 1 evaluations are no finite numbers" in said([make(here, "a", more=more)]).notes


def test_pauses_are_not_time_and_other_devices_are_said(here):
    lines = [{"env_steps": step, "time/unix_s": 1e9 + 3 * step} for step in (1, 2, 3, 4)]
    lines += [{"env_steps": step, "time/unix_s": 2e9 + 3 * step} for step in (5, 6)]
    clock, lost = elapsed(lines)
    np.testing.assert_allclose(clock, [[1, 2, 3, 4, 5, 6], [0, 3, 6, 9, 12, 15]])
    assert lost == pytest.approx(1e9)
    assert elapsed(lines[:1]) == (None, 0.0)
    path = make(here, "b", "dqn")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "device": "2 x H100"}))
    notes = said([make(here, "a"), path]).notes
    assert "different devices (2 x H100, cpu): times on the clock are not compared" in notes


def test_settings_that_differ_are_marked_and_others_folded(here):
    report([make(here, "a"), make(here, "b", "dqn", config={"lr": 0.1, "tau": 0.5})], here / "page.html")
    page = (here / "page.html").read_text()
    marked = re.findall(r'<tr class="differs"><td>(.*?)</td>', page)
    assert "algorithm" in marked
    assert "config.<wbr>lr" not in marked
    assert "1 that not all runs have" in page
    assert "config.<wbr>tau" in page


# ---- bad input: one line each, and the others are shown


def test_each_folder_that_is_no_run_is_one_line_and_nothing_else_is_lost(here, capsys):
    good = make(here, "good")
    (here / "empty").mkdir()
    broken = make(here, "broken")
    (broken / "config.json").write_text("{")
    damaged = make(here, "damaged", "dqn")
    with open(damaged / "metrics.jsonl", "a") as file:
        file.write('{"env_steps": 5\nnot json\n')
    silent = make(here, "silent", "ppo", points=10, until=0)
    words = ["good", "nothing", "empty", "broken", "damaged", "silent", "good", "--out", "page.html"]
    assert cli.main(["report", *words]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert all(line.startswith("polyak: ") and line.isprintable() for line in lines)
    assert [sum(name in line for line in lines) for name in ("nothing", "empty", "broken", "damaged", "twice")] == [
        1, 1, 1, 1, 1,
    ]  # fmt: skip
    assert out.splitlines()[-1] == "page.html"
    text = " ".join(Parsed(here / "page.html").text.split())
    assert "2 lines are damaged or cut off, and left out" in text
    assert "silent has logged nothing yet" in text
    assert f"{good.name} " in text
    assert str(silent.name) in text
    assert cli.main(["report", "nothing", "empty"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("init", [8, 8]), ("use", 5), ("data", 5), ("seeds", "x"), ("env", [])]
)
def test_a_plan_of_the_wrong_kind_is_one_line(here, name, value):
    path = make(here, "a")
    config = json.loads((path / "config.json").read_text())
    config["plan"][name] = value
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        look([path])


def test_an_only_run_that_logged_nothing_makes_a_page_that_says_so(here):
    assert report([make(here, "a", until=0)], here / "page.html").verdict == ["nothing to compare"]
    assert "Nothing was logged yet." in Parsed(here / "page.html").text


def test_out_is_a_page_in_a_folder_that_is_there(here, capsys):
    make(here, "a")
    for out in ("page.pdf", "nowhere/page.html"):
        assert cli.main(["report", "a", "--out", out]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["report", "a"]) == 0
    assert (here / "a" / "report.html").is_file()  # of one run: in its folder
    make(here, "b")
    assert cli.main(["report", "a", "b"]) == 0
    assert (here / "report.html").is_file()
    assert cli.main(["report", "a", "b"]) == 0  # again, in its place
    (here / "report.html").write_text("my own")
    assert cli.main(["report", "a", "b"]) == 2
    assert "say --out" in capsys.readouterr().err
    assert (here / "report.html").read_text() == "my own"
    with pytest.raises(UserError, match="at most"):
        report(["a"] * 201, here / "page.html")


# ---- a folder from a stranger

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&amp;$\\frac{'


def hostile(here):
    """A run with markup in everything that is a text, numbers that are hard to draw, and a link in its videos."""
    more = [
        {"env_steps": 900, "seed": 0, f"update/{HOSTILE}": 3.0, "update/huge": 1e300, "update/zero": 0.0},
        {"env_steps": 2**62, "seed": 0, "update/late": -1e29, "eval/return": 1e299},
        {"env_steps": 500, "seed": 10**12, "eval/return": 5.0},
    ]
    path = make(
        here,
        "x",
        "td3",
        env=f"Pen{HOSTILE}",
        more=more,
        config={"lr": HOSTILE, HOSTILE: "\ud800\u202e\x1b[31m"},
    )
    config = json.loads((path / "config.json").read_text())
    config |= {"device": HOSTILE, "command": [HOSTILE], "versions": {HOSTILE: HOSTILE}, "preset": HOSTILE}
    (path / "config.json").write_text(json.dumps(config))
    os.rename(path, here / "<b>&bold;$x^")
    path = here / "<b>&bold;$x^"
    (path / "videos").mkdir()
    (path / "videos" / "10.mp4").write_bytes(b"not a video")
    os.symlink(canary(here), path / "videos" / "99.mp4")
    return path


def test_markup_in_a_folder_is_text_on_the_page_and_nothing_is_written_or_fetched_elsewhere(here):
    path = hostile(here)
    with WATCH.over(here):
        written = report([path, make(here, "other", "dqn")], here / "page.html", png=True, table=True)
    assert WATCH.executed == []
    assert WATCH.outside == []
    assert any("10.mp4 is not a .mp4 video" in line for line in written.left_out)
    page = Parsed(here / "page.html")
    assert page.tags.count("script") == 1
    assert not {"img", "video", "b", "frac"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    links = [value for _, name, value in page.attributes if name in ("src", "href", "action", "data")]
    assert all(value.startswith("#c") for value in links)
    assert "document.title=" in page.text
    assert "<b>&bold;$x^" in page.text
    assert "\x1b" not in page.text
    assert "precious" not in page.text + "".join(written.left_out)
    text = (here / "page.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 1
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_page_allows_its_own_script_and_no_connection(here):
    report([make(here, "a")], here / "page.html")
    page = Parsed(here / "page.html")
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and name == "content" and "src" in v)
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy


def test_a_link_in_the_place_of_the_page_is_replaced_and_not_followed(here):
    precious, path = canary(here), make(here, "a")
    os.symlink(precious, path / "report.html")
    report([path])
    assert precious.read_text() == "mine\n"
    assert not (path / "report.html").is_symlink()


# ---- what is written


def test_the_same_runs_give_the_same_page_to_the_byte(here):
    paths = [make(here, "a"), make(here, "b", "dqn")]
    pages = []
    for name in ("one.html", "two.html"):
        report(paths, here / name)
        pages.append((here / name).read_bytes())
    assert pages[0] == pages[1]


def test_no_two_elements_of_a_page_have_one_name_and_every_reference_leads_somewhere(here):
    report([make(here, "a"), make(here, "b", "dqn")], here / "page.html")
    text = (here / "page.html").read_text()
    names = re.findall(r'\bid="([^"]+)"', text)
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert names
    assert len(names) == len(set(names))
    assert {one or other for one, other in used} == set(names)


def test_the_table_has_every_line_and_no_formula(here):
    path = make(here, "=cmd|'a'!A1", seeds=2, points=3)
    written = report([path], here / "page.html", png=True, table=True)
    assert [file.name for file in written.files] == ["page.html", "page.png", "page.csv"]
    rows = list(csv.DictReader(io.StringIO((here / "page.csv").read_text())))
    lines = RunFolder(path).metrics()
    assert len(rows) == len(lines) == 12
    for row, line in zip(rows, lines, strict=True):
        assert row["run"] == "'=cmd|'a'!A1"
        numbers = {name: float(value) for name, value in row.items() if value and name in line}
        assert numbers == {name: float(value) for name, value in line.items()}
    assert (here / "page.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def film(folder, name="500.mp4"):
    """A small video of a run."""
    (folder / "videos").mkdir(exist_ok=True)
    pictures = (np.full((64, 64, 3), 8 * i, np.uint8) for i in range(20))
    write_video(folder / "videos" / name, pictures, 10)


def test_the_newest_video_is_part_of_the_page_unless_it_is_too_large(here, monkeypatch):
    path = make(here, "a")
    film(path)
    film(path, "1000.gif")
    report([path], here / "page.html")
    sources = [value for _, name, value in Parsed(here / "page.html").attributes if name == "src"]
    (source,) = sources
    assert source.startswith("data:image/gif;base64,")
    assert base64.b64decode(source.partition(",")[2]) == (path / "videos" / "1000.gif").read_bytes()
    monkeypatch.setattr("polyak.runs.report.MOST_FILM", 100)
    written = report([path], here / "page.html")
    assert any("1000.gif" in line and "at most 100" in line for line in written.left_out)


# ---- from Python


def test_a_run_plots_its_curve_and_writes_it_where_it_is_told(here):
    run = Run(make(here, "a"))
    figure = run.plot(here / "curve.png")
    assert (here / "curve.png").read_bytes()[:8] == figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert figure.axes[0].get_title(loc="left") == "td3 on Pendulum-v1"
    assert max(line.get_ydata().max() for line in figure.axes[0].lines) == pytest.approx(110)


def test_a_run_is_a_dataframe_where_pandas_is_installed(here, monkeypatch):
    pytest.importorskip("pandas")
    run = Run(make(here, "a", seeds=2, points=3))
    frame = run.to_dataframe()
    assert list(frame.columns[:3]) == ["env_steps", "updates", "seed"]
    assert len(frame) == len(run.metrics) == 12
    assert frame["eval/return"].dropna().max() == pytest.approx(110)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        run.to_dataframe()


def test_a_report_needs_no_jax(here):
    """The command is quick, and works where JAX cannot."""
    make(here, "a")
    code = (
        "import sys; sys.modules['jax'] = None; from polyak.cli import main; "
        "sys.exit(main(['report', 'a', '--out', 'page.html', '--csv']))"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- in a browser

PLAYED = """new Promise(resolve => {
  const video = document.querySelector("video");
  video.muted = true;
  video.addEventListener("timeupdate", () => video.currentTime > 0 && resolve(video.currentTime));
  video.addEventListener("ended", () => resolve(video.currentTime));
  video.play().catch(() => resolve(-1));
})"""
in_a_browser = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium: set POLYAK_CHROMIUM")


@in_a_browser
def test_a_browser_shows_the_page_without_errors_and_its_legend_toggles(here):
    paths = [make(here, "a"), make(here, "b", "dqn", level=50)]
    film(paths[0])
    film(paths[1], "500.gif")
    report(paths, here / "page.html")
    with Page(find_chromium(), here / "profile") as page:
        page.open(here / "page.html")
        shown = "getComputedStyle(document.querySelector('figure .s1')).display"
        assert page.ask(shown) != "none"
        page.click(".legend button:nth-child(2)")
        assert page.ask(shown) == "none"
        assert page.ask("getComputedStyle(document.querySelector('figure .s0')).display") != "none"
        assert page.ask("document.querySelector('.legend button:nth-child(2)').ariaPressed") == "false"
        page.click(".legend button:nth-child(2)")
        assert page.ask(shown) != "none"
        page.click(".legend button:last-child")
        assert page.ask("getComputedStyle(document.querySelector('.seeds')).display") == "none"
        assert page.ask("document.querySelector('section img').naturalWidth") == 64
        assert page.ask("document.querySelector('figure .s1 title').textContent") == "dqn"
        assert page.ask(PLAYED) > 0
        assert page.errors == []
        assert page.requests == [(here / "page.html").as_uri()]


READ = "[...document.querySelectorAll('.readout')].map(e => e.innerText.replace(/\\s+/g, ' ').trim())"


@in_a_browser
def test_a_chart_reads_out_its_curves_under_the_mouse_and_by_keys(here):
    runs = [make(here, "a", level=[90.0, 100.0, 110.0], seeds=3), make(here, "b", "dqn", level=50)]
    report(runs, here / "page.html")
    with Page(find_chromium(), here / "profile") as page:
        page.open(here / "page.html")
        assert page.ask(READ) == []
        page.point("[data-plot]", 0.99)
        (said,) = page.ask(READ)
        middle, low, high = wanted(runs[0])
        assert said.startswith(f"1,000 steps td3 {middle} [{low}, {high}] dqn 50 [")
        assert middle == "100.0"
        assert page.ask("document.querySelectorAll('.reading circle').length") == 2
        page.point("[data-plot]", 0.56)
        assert page.ask(READ)[0].startswith("500 steps td3 50 ")
        page.point("h1", 0.5)
        assert page.ask(READ) == []
        page.click(".legend button:nth-child(2)")  # what is hidden is not read
        page.point("[data-plot]", 0.99)
        assert "dqn" not in page.ask(READ)[0]
        page.point("h1", 0.5)
        page.ask("document.querySelector('figure:has([data-plot])').focus()")
        for key, place in (
            ("ArrowRight", 100),
            ("ArrowRight", 200),
            ("End", 1000),
            ("ArrowLeft", 900),
            ("Home", 100),
        ):
            page.press(key)
            assert page.ask(READ)[0].startswith(f"{place:,} steps td3")
        page.press("Escape")
        assert page.ask(READ) == []
        page.point("figure:nth-of-type(2) [data-plot]", 0.99)  # the clock
        assert page.ask(READ)[0].startswith("18 s td3 100.0 [")
        assert page.errors == []


def wanted(path):
    """The interquartile mean of a run's last evaluations and its interval, as the table has them."""
    said = re.search(r"<td>(\S+)</td><td>\[(\S+), (\S+)\]</td>", (path.parent / "page.html").read_text())
    return said.groups()


@in_a_browser
def test_a_chart_reads_out_its_curves_under_a_finger_on_a_phone(here):
    report([make(here, "a"), make(here, "b", "dqn", level=50)], here / "page.html")
    with Page(find_chromium(), here / "profile") as page:
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        page.open(here / "page.html", width=390)
        for across in (0.2, 0.5, 0.99):
            page.point("[data-plot]", across, touch=True)
            (said,) = page.ask(READ)  # it stays when the finger is lifted
            assert re.match(r"[\d,]+ steps td3 [\d.]+ \[", said)
            left, right = page.ask(
                "(r => [r.left, r.right])(document.querySelector('.readout').getBoundingClientRect())"
            )
            assert 0 <= left < right <= 390
            assert page.ask("document.documentElement.scrollWidth") <= 390
        page.point("h1", 0.5, touch=True)
        assert page.ask(READ) == []
        assert page.ask("getComputedStyle(document.querySelector('[data-plot]')).touchAction") == "pan-y"
        assert page.errors == []


def test_what_a_chart_reads_out_are_numbers_alone(here):
    report([hostile(here), make(here, "b", "dqn", level=50)], here / "page.html")
    plots = re.findall(r'data-plot="([^"]*)"', (here / "page.html").read_text())
    assert plots
    for plot in plots:
        said = json.loads(plot.replace("&quot;", '"'))
        assert set(said) == {"box", "x", "y", "log", "unit", "lines"}
        assert said["unit"] in ("", "s", "min", "h")
        numbers = [said["log"], *said["box"], *said["x"], *said["y"]]
        for index, *rows in said["lines"]:
            assert len({len(row) for row in rows}) == 1
            numbers += [index, *(x for row in rows for x in row)]
        assert all(isinstance(x, int | float) for x in numbers)


@in_a_browser
def test_it_reads_at_phone_width_in_both_colours(here):
    report([make(here, "a"), make(here, "b", "dqn", env_fields={"g": 5.0})], here / "page.html")
    with Page(find_chromium(), here / "profile") as page:
        colours = []
        for scheme in ("light", "dark"):
            page.open(here / "page.html", width=390, scheme=scheme)
            assert page.ask("document.documentElement.scrollWidth") <= 390
            sizes = "[...document.querySelectorAll('figure text')].filter(e => e.getClientRects().length)"
            assert page.ask(f"Math.min(...{sizes}.map(e => e.getBoundingClientRect().height))") >= 9
            colours.append(page.ask("[document.body, document.querySelector('figure text')].map("
                                    "(e, i) => getComputedStyle(e)[i ? 'fill' : 'backgroundColor'])"))  # fmt: skip
        assert colours[0] == ["rgb(255, 255, 255)", "rgb(34, 38, 46)"]
        assert colours[1] == ["rgb(19, 22, 27)", "rgb(228, 232, 238)"]


@in_a_browser
def test_a_browser_runs_nothing_of_a_hostile_folder(here):
    report([hostile(here)], here / "page.html")
    with Page(find_chromium(), here / "profile") as page:
        page.open(here / "page.html")
        assert page.ask("document.title").startswith("td3 on Pen</script>")
        assert page.ask("document.images.length") == 0
        assert page.errors == []
        assert page.requests == [(here / "page.html").as_uri()]


@pytest.mark.slow
def test_twenty_runs_of_ten_seeds_stay_below_five_megabytes_and_open_in_two_seconds(here):
    paths = [
        make(
            here, f"{algorithm}-{lr}-{env}", algorithm, env, level * scale, 10, points=100, config={"lr": lr}
        )
        for env, scale in (("Pendulum-v1", 1), ("Ant-v5", 1_000), ("Hopper-v5", 10), ("Walker2d-v5", 3))
        for algorithm, level, lr in (
            ("td3", 3, 1),
            ("dqn", 2, 1),
            ("ppo", 3.1, 1),
            ("ppo", 1.5, 2),
            ("dqn", 1.7, 2),
        )
    ]
    report(paths, here / "page.html")
    assert (here / "page.html").stat().st_size < 5_000_000
    if find_chromium():
        with Page(find_chromium(), here / "profile") as page:
            assert page.open(here / "page.html") < 2
            assert page.errors == []


def test_who_went_further_than_all_were_compared_has_its_end_said(here):
    short, far = make(here, "a", level=60.0), make(here, "b", "ppo", level=200.0, steps=10 * STEPS)
    words = said([short, far]).verdict
    assert "td3 is better than ppo" in words  # after as many steps as both made
    assert words.endswith(
        "All this is after 1,000 steps, as far as all of them went; ppo went on to 10,000, where it ended at 200.0."
    ), words
    words = said([short, make(here, "c", "ppo", level=20.0)]).verdict
    assert "All this" not in words
