import io
import os
import pty
import re
import select
import subprocess
import sys
import time
import types

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
import scipy.stats

from polyak.errors import UserError
from polyak.interface import Box, Discrete
from polyak.show.curve import count_label, draw_curve, interquartile_mean, iqm_interval
from polyak.show.panel import COLOUR, STEPS, WIDTH, Panel
from polyak.show.terminal import Progress, Terminal, clock, count, mean_and_reach
from polyak.show.video import Painter, best_render_mode, caption, draw_state, enlarged, write_video

mujoco = pytest.importorskip("mujoco")
from polyak.show.raycast import RayCaster, _square_wave

BALL = """<mujoco><worldbody>
  <geom name="floor" type="plane" size="3 3 1" rgba="0.8 0.8 0.8 1"/>
  <camera name="track" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
  <geom name="ball" type="sphere" size="0.5" pos="0 0 1" rgba="1 0 0 1"/>
  <geom name="hidden" type="sphere" size="0.5" pos="1 0 1" group="4"/>
  <site name="goal" size="0.2" pos="-1 0 1" rgba="0 1 0 1"/>
</worldbody></mujoco>"""


@pytest.fixture(scope="module")
def cheetah():
    env = gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    yield env.unwrapped
    env.close()


def ball():
    model = mujoco.MjModel.from_xml_string(BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


# ---- the ray caster


def test_ray_caster_sees_floor_sky_and_every_part_of_the_cheetah(cheetah):
    seen = RayCaster(cheetah.model).segment(cheetah.data)
    assert seen.shape == (240, 320)
    assert set(np.unique(seen)) == {-1, *range(cheetah.model.ngeom)}


def test_picture_has_its_shape_and_many_colours_and_leaves_the_data_alone(cheetah):
    before = cheetah.data.qpos.copy(), cheetah.data.geom_xpos.copy()
    picture = RayCaster(cheetah.model, 97, 61, {"distance": 4.0}).render(cheetah.data)
    assert picture.shape == (61, 97, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    assert np.array_equal(before[0], cheetah.data.qpos)
    assert np.array_equal(before[1], cheetah.data.geom_xpos)


def test_ball_covers_the_pixels_that_perspective_says():
    model, data = ball()
    seen = RayCaster(model, 200, 200).segment(data)
    # The silhouette of a sphere, radius r at distance d on the axis, is a cone of half angle asin(r / d).
    slope = np.tan(np.radians(45) / 2)
    radius = np.tan(np.arcsin(0.5 / 4)) / slope * 100
    row, column = np.mgrid[:200, :200] - 99.5
    expected = row**2 + column**2 < radius**2
    assert np.mean((seen == 1) != expected) < 0.001


def test_ball_is_red_its_sun_side_brighter_and_its_shadow_dark():
    model, data = ball()
    caster = RayCaster(model, 200, 200)
    picture, seen = caster.render(data).astype(int), caster.segment(data)
    red, green = picture[..., 0][seen == 1], picture[..., 1][seen == 1]
    assert (red > green + 40).mean() > 0.95
    assert picture[80, 100, 0] > picture[128, 100, 0] + 40
    floor = picture[seen == 0].sum(1)
    casts = model.geom_group.copy()
    model.geom_group[1] = 4
    lit = RayCaster(model, 200, 200).render(data).astype(int)[seen == 0].sum(1)
    model.geom_group[:] = casts
    assert (lit - floor).max() > 150
    assert (floor > lit + 3).mean() < 0.001


def test_hidden_groups_are_not_drawn_and_round_sites_are():
    model, data = ball()
    seen = RayCaster(model, 200, 200).segment(data)
    assert 2 not in seen
    assert model.ngeom in seen


def test_ground_goes_on_where_the_plane_is_drawn_no_further():
    model, data = ball()
    seen = RayCaster(model, 300, 200).segment(data)
    assert (seen[101:, 0] == 0).all()  # below the horizon, up to it
    assert (seen[:99, 0] == -1).all()


def test_camera_follows_the_body(cheetah):
    caster = RayCaster(cheetah.model)
    before = caster.segment(cheetah.data) > 0
    data = mujoco.MjData(cheetah.model)
    data.qpos[:] = cheetah.data.qpos
    data.qpos[0] += 300
    mujoco.mj_forward(cheetah.model, data)
    assert np.mean((caster.segment(data) > 0) != before) < 0.002


def test_free_camera_follows_a_free_body_and_stays_elsewhere():
    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/>
      <body name="box" pos="0 0 1"><freejoint/><geom size="0.3"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    caster = RayCaster(model, 64, 64, {"distance": 3.0})
    for x in (0.0, 50.0):
        data.qpos[0] = x
        mujoco.mj_forward(model, data)
        row, column = np.nonzero(caster.segment(data) == 1)
        assert abs(column.mean() - 31.5) < 1
        assert abs(row.mean() - 31.5) < 1


def test_checker_is_the_mean_of_its_cells():
    x = np.linspace(-3.3, 3.3, 23)
    for width in (0.1, 0.7, 1.9, 5.0):
        inside = x[:, None] + width * (np.arange(20_000) + 0.5) / 20_000 - width / 2
        expected = np.where(np.floor(inside) % 2 == 0, 1.0, -1.0).mean(1)
        np.testing.assert_allclose(_square_wave(x, np.full_like(x, width)), expected, atol=2e-3)


# ---- painters


@pytest.mark.parametrize(
    ("name", "mode"),
    [("HalfCheetah-v5", None), ("Pendulum-v1", "rgb_array"), ("CliffWalking-v1", "rgb_array")],
)
def test_painter_draws_in_the_best_render_mode(name, mode, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert best_render_mode(lambda m: gymnasium.make(name, render_mode=m)) == mode
    env = gymnasium.make(name, render_mode=mode)
    env.reset(seed=0)
    painter = Painter(env)
    first = painter.draw()
    assert first.ndim == 3
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3
    assert painter.fps == env.metadata["render_fps"]
    for _ in range(5):
        env.step(env.action_space.sample())
    assert not np.array_equal(first, painter.draw()) or name == "CliffWalking-v1"
    env.close()


def test_mujoco_uses_opengl_only_where_the_user_asks_for_it(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert best_render_mode(lambda m: gymnasium.make("HalfCheetah-v5")) == "rgb_array"


class Blind(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode


class Broken(Blind):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


def test_what_cannot_draw_says_so_in_one_line(monkeypatch):
    with pytest.raises(UserError, match="Blind draws no pictures"):
        best_render_mode(lambda m: Blind(m))
    with pytest.raises(UserError, match="make it with 'rgb_array'"):
        Painter(Blind())
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UserError, match=r"polyak\[classic-control\]") as raised:
        Painter(Broken("rgb_array")).draw()
    assert "\n" not in str(raised.value)


def test_state_of_a_jax_environment_without_a_picture_is_a_user_error():
    from polyak.envs.environment import Environment

    with pytest.raises(UserError, match="draws no pictures"):
        draw_state(Environment(), ())


def test_caption_changes_the_corner_only():
    frame = np.full((240, 320, 3), 200, np.uint8)
    marked = caption(frame, "episode 1")
    assert (frame == 200).all()
    assert marked.shape == frame.shape
    assert marked.min() < 120
    assert (marked[60:] == 200).all()


def test_a_panel_shows_what_was_read_beside_the_picture():
    frame = np.full((240, 300, 3), 200, np.uint8)
    panel = Panel(Discrete(3))
    empty = panel.beside(frame)
    assert empty.shape == (240, 300 + WIDTH, 3)
    assert (empty[:, :300] == 200).all()
    panel.add(1.0, np.int32(2), None)
    chosen = panel.beside(frame)
    panel.add(1.0, np.int32(0), None)
    other = panel.beside(frame)
    lower = slice(130, None)
    assert (chosen[lower, 300:] != other[lower, 300:]).any()  # another square is full
    # real actions are bars from the middle, and where a value is read there is a third part
    bars = Panel(Box((2,), -1.0, 1.0))
    bars.add(0.5, np.array([1.0, -1.0]), None)
    full = bars.draw(240)
    row = (np.array(full) == COLOUR).all(axis=-1)
    assert row[145:200, WIDTH // 2 + 40].any()
    assert row[145:200, WIDTH // 2 - 40].any()
    bars.add(0.5, np.zeros(2), float("nan"))
    assert (bars.draw(240) != full).any()
    for _ in range(500):
        bars.add(-1.0, np.zeros(2), 3.0)
    assert len(bars.rewards) == len(bars.values) == STEPS
    many = Panel(Discrete(1000))
    many.add(0.0, np.int32(999), 1.0)
    assert many.draw(240).shape == (240, WIDTH, 3)


def test_a_small_picture_is_enlarged_until_its_caption_can_be_read_and_a_large_one_stays():
    small = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    large = enlarged(small)
    assert large.shape == (448, 448, 3)
    assert np.array_equal(large[::7, ::7], small)
    assert enlarged(large) is large
    marked = caption(large, "ppo  my_module:MyEnv  40,960 steps  step 200  return 1,234.5")
    assert (marked != large).any(axis=(0, 2))[:-5].any()
    assert np.array_equal(marked[:, -5:], large[:, -5:])  # the label ends before the picture does


# ---- video files


def moving_square(count, height=49, width=65):
    for i in range(count):
        frame = np.full((height, width, 3), 30, np.uint8)
        frame[10:20, 2 * i : 2 * i + 10] = (250, 40, 40)
        yield frame


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_video_reads_back_with_every_frame_and_its_colours(tmp_path, suffix):
    path = write_video(tmp_path / "new" / f"film{suffix}", moving_square(12), fps=20)
    read = imageio.imread(path, index=None) if suffix == ".gif" else imageio.imread(path, plugin="FFMPEG")
    height, width = (50, 66) if suffix == ".mp4" else (49, 65)
    assert read.shape[:3] == (12, height, width)
    frame = read[8][..., :3].astype(int)
    np.testing.assert_allclose(frame[14, 20], (250, 40, 40), atol=25)
    np.testing.assert_allclose(frame[40, 50], (30, 30, 30), atol=25)
    assert os.listdir(path.parent) == [path.name]


def test_gif_lasts_as_long_as_the_film(tmp_path):
    from PIL import Image

    for fps, pictures in ((30, 21), (125, 100)):
        with Image.open(write_video(tmp_path / "film.gif", moving_square(pictures, 40, 240), fps)) as gif:
            total = 0
            for i in range(gif.n_frames):
                gif.seek(i)
                total += gif.info["duration"]
                assert gif.info["duration"] >= 20
        assert abs(total / 1000 - pictures / fps) < 0.02


def test_failed_video_leaves_nothing_and_keeps_the_old_one(tmp_path):
    def breaks():
        yield from moving_square(3)
        raise RuntimeError("simulator died")

    for name in ("film.mp4", "film.gif"):
        (tmp_path / name).write_text("old")
        with pytest.raises(RuntimeError, match="simulator died"):
            write_video(tmp_path / name, breaks(), 20)
        assert (tmp_path / name).read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["film.gif", "film.mp4"]


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("film.avi", [np.zeros((4, 4, 3), np.uint8)], "ends in .mp4 or .gif, not 'film.avi'"),
        ("film.mp4", [], "no pictures"),
        ("film.gif", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "picture 1 is"),
        ("film.gif", [np.zeros((4, 4, 3))], "picture 0 is float64"),
    ],
)
def test_video_mistakes_are_one_line(tmp_path, name, frames, message):
    with pytest.raises(UserError, match=re.escape(message)):
        write_video(tmp_path / name, frames, 20)
    assert os.listdir(tmp_path) == []


def test_ffmpegs_own_failure_is_told(tmp_path):
    with pytest.raises(UserError, match="ffmpeg could not write"):
        write_video(tmp_path / "film.mp4", moving_square(3), fps=0)
    assert os.listdir(tmp_path) == []


# ---- curves


def test_interquartile_mean_is_scipys_trimmed_mean_as_in_rliable():
    generator = np.random.default_rng(0)
    for n in range(1, 30):
        x = generator.standard_t(2, size=n)
        np.testing.assert_allclose(
            interquartile_mean(x), scipy.stats.trim_mean(x, 0.25, axis=None), rtol=1e-12
        )
    assert interquartile_mean(np.array([1.0, 2.0, 30.0])) == 11
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 4.0, 50.0])) == 3
    x = generator.normal(size=(10, 3, 2))
    np.testing.assert_allclose(interquartile_mean(x), scipy.stats.trim_mean(x, 0.25, axis=0))


def test_the_interval_of_three_seeds_is_students_t():
    """Of three seeds none is cut: the interquartile mean is the mean."""
    x = np.random.default_rng(1).normal(5.0, 2.0, size=(3, 2))
    want = scipy.stats.t.interval(0.95, 2, x.mean(axis=0), scipy.stats.sem(x))
    np.testing.assert_allclose(iqm_interval(x), want, rtol=0.03)
    np.testing.assert_array_equal(iqm_interval(x), iqm_interval(x.copy()))


@pytest.mark.parametrize("seeds", [3, 4, 5, 7, 10, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds):
    """Of 20,000 simulated runs, by which 95 % is known to 0.15 %; the percentile bootstrap had 74 to 93 %."""
    generator = np.random.default_rng(seeds)
    for level in (0.95, 0.8):
        low, high = iqm_interval(generator.normal(size=(seeds, 20_000)), level)
        assert abs(np.mean((low < 0) & (high > 0)) - level) < 0.01
    skewed = np.exp(generator.normal(size=(seeds, 20_000)))  # whose middle half is about 1
    middle = np.exp(scipy.stats.norm.ppf(np.linspace(0.25, 0.75, 10_001))).mean()
    low, high = iqm_interval(skewed)
    assert np.mean((low < middle) & (high > middle)) > 0.92


def metrics(seeds):
    for seed in range(seeds):
        for step in range(0, 10_001, 500):
            yield {"env_steps": step, "seed": seed, "episode/return": step / 100 + seed, "updates": step}
        for step in range(0, 10_001, 2_500):
            yield {"env_steps": step, "seed": seed, "eval/return": step / 50 + seed}


@pytest.mark.parametrize("seeds", [0, 1, 2, 3, 10])
def test_curve_is_a_png_of_its_size(tmp_path, seeds):
    path = draw_curve(tmp_path / "run" / "curve.png", metrics(seeds), "TD3 on Pendulum-v1")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = imageio.imread(path)[..., :3]
    assert picture.shape == (840, 1440, 3)
    coloured = np.ptp(picture.astype(int), axis=-1) > 60
    assert coloured.any() == (seeds > 0)
    assert os.listdir(path.parent) == ["curve.png"]


@pytest.mark.parametrize("scale", [1e-5, 100.0, -12345.678])
def test_the_label_of_the_returns_is_never_cut(tmp_path, scale):
    lines = [{"env_steps": k, "eval/return": scale * (1 + 1e-3 * k)} for k in range(1, 9)]
    picture = imageio.imread(draw_curve(tmp_path / "a.png", lines))[..., :3]
    assert (picture[:, :4] == 255).all()
    assert (picture[300:500, 4:60] < 128).any()  # there it stands


def test_curve_takes_gaps_single_points_seeds_of_different_length_and_nan(tmp_path):
    lines = [{"env_steps": 10, "eval/return": 1.0}, {"env_steps": 20, "eval/return": float("nan")}]
    draw_curve(tmp_path / "a.png", lines)
    apart = [
        {"env_steps": s, "seed": k, "episode/return": 1e6 * s} for k in range(3) for s in range(k, 9 - 2 * k)
    ]
    draw_curve(tmp_path / "a.png", [*apart, {"env_steps": 100, "seed": 7, "episode/return": None}])
    never_together = [{"env_steps": 10 * k, "seed": k, "eval/return": 1.0} for k in range(4)]
    draw_curve(tmp_path / "a.png", never_together)


def test_curve_needs_no_display_and_leaves_pyplot_alone(tmp_path):
    program = (
        "import sys; from polyak.show.curve import draw_curve;"
        f"draw_curve({str(tmp_path / 'a.png')!r}, [{{'env_steps': 1, 'eval/return': 2.0}}]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)


def test_counts_are_short():
    assert [count_label(x) for x in (0, 950, 12_500, 1e6, 2.5e6)] == ["0", "950", "12.5k", "1M", "2.5M"]
    assert [count(x) for x in (0, 999.4, 999.7, 12_345, 999_999, 1.5e9)] == [
        "0", "999", "1k", "12.3k", "1M", "1.5G",
    ]  # fmt: skip
    assert [clock(x) for x in (7, 750, 11_100, 190_000)] == ["0:07", "12:30", "3:05:00", "2 d 4 h"]


# ---- the terminal


@pytest.fixture
def clock_hand(monkeypatch):
    hand = [1000.0]
    monkeypatch.setattr("polyak.show.terminal.time.monotonic", lambda: hand[0])
    return hand


def test_a_long_wait_gives_plain_signs_of_life(monkeypatch):
    monkeypatch.setattr("polyak.show.terminal.WAIT_SECONDS", 0.02)
    stream = io.StringIO()
    with Terminal(stream).status("compiling"):
        wait_for(lambda: stream.getvalue().count("compiling ... 0 s\n") >= 2)
    said = stream.getvalue()
    assert said.startswith("compiling ...\ncompiling ... 0 s\n")
    time.sleep(0.1)
    assert stream.getvalue() == said


def wait_for(true, seconds=30):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_plain_output_has_its_lines_and_no_escape_codes(clock_hand, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.header("td3-Pendulum\nruns/td3-Pendulum")
    terminal.facts({"jax": "0.10.2", "observations": "Box(3)"})
    with terminal.status("compiling"):
        clock_hand[0] += 2
    with terminal.progress(100_000) as progress:
        for i in range(61):
            progress.update(1000 * i, last_return=-100.0 - i)
            clock_hand[0] += 0.5
        progress.log_evaluation(60_000, [-160.0, -150.0, -140.0], seeds=3)
        progress.log_evaluation(60_000, [-145.0])
    written = stream.getvalue()
    assert "\x1b" not in written
    assert "\r" not in written
    assert written.splitlines() == [
        "td3-Pendulum",
        "runs/td3-Pendulum",
        "  jax           0.10.2",
        "  observations  Box(3)",
        "compiling ...",
        "compiling: 2.0 s",
        "1,000/100,000 steps  1%  2k/s  0:50 left  return -101.0",
        "21,000/100,000 steps  21%  2k/s  0:40 left  return -121.0",
        "41,000/100,000 steps  41%  2k/s  0:30 left  return -141.0",
        " 60,000 steps  evaluation  -150.0  [ -174.8,  -125.2]  (3 seeds)",
        " 60,000 steps  evaluation  -145.0  best so far",
        "60,000 of 100,000 steps in 0:30, 1.97k steps/s",
    ]


def test_a_log_of_a_long_run_has_some_hundred_lines_a_day(clock_hand):
    stream = io.StringIO()
    with Terminal(stream).progress(86_400) as progress:
        for second in range(86_400):
            clock_hand[0] += 1
            progress.update(second)
    lines = stream.getvalue().splitlines()
    assert 200 < len(lines) < 500
    assert lines[1].startswith("10/86,400 steps")


def test_in_a_notebook_one_line_changes(clock_hand, monkeypatch, capsys):
    shown = []

    def display(data, raw, display_id):
        shown.append((display_id, data["text/plain"]))

    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    fake.display = types.ModuleType("IPython.display")
    fake.display.display, fake.display.update_display = display, display
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    terminal = Terminal()
    with terminal.status("compiling"):
        clock_hand[0] += 3
    with terminal.progress(1_000) as progress:
        for i in range(101):
            progress.update(5 * i, last_return=1.0)
            clock_hand[0] += 0.1
            if i in (40, 80):
                progress.log_evaluation(5 * i, [10.0 - i / 10, 12.0 - i / 10])
    assert capsys.readouterr().out == ""
    assert len({name for name, _ in shown}) == 1
    texts = [text for _, text in shown]
    assert texts[0] == "compiling ..."
    assert 20 <= len(texts) <= 27  # twice a second, and for every evaluation
    assert "400/1,000 steps  40%  50/s  0:12 left  return 1  eval 3  [-9.71, 15.7]  best 7" in texts
    assert texts[-1] == "500 of 1,000 steps in 0:10, 49.5 steps/s  eval 3  [-9.71, 15.7]  best 7"
    fake.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal
    assert Terminal().cell is None


def test_the_interval_of_the_mean_is_students():
    for size in (2, 3, 5, 10, 40):
        x = np.random.default_rng(size).normal(5, 2, size)
        mean, reach = mean_and_reach(x.tolist())
        exact = scipy.stats.t.interval(0.95, size - 1, loc=x.mean(), scale=scipy.stats.sem(x))
        assert (mean - reach, mean + reach) == pytest.approx(exact, rel=2e-3)
    assert mean_and_reach([3.0]) == (3.0, 0.0)


def test_rate_is_that_of_the_recent_window_and_time_left_follows(clock_hand):
    progress = Progress(Terminal(io.StringIO()), 10_000)
    steps = 5_000  # resumed
    for i in range(400):
        steps += 20 if i < 200 else 2
        progress.update(steps)
        clock_hand[0] += 0.5
    assert progress.rate == pytest.approx(4.0)
    assert progress.seconds_left == pytest.approx((10_000 - steps) / 4.0)
    progress.update(steps, rate=8.0)
    assert progress.rate == 8.0


def test_long_first_chunk_gives_no_rate_and_no_division_by_zero():
    stream = io.StringIO()
    with Terminal(stream).progress(0) as progress:
        progress.update(0, last_return=float("nan"))
        assert progress.rate is None
    assert "0 of 0 steps" in stream.getvalue()


def test_warnings_go_to_stderr_and_text_to_stdout(capsys):
    terminal = Terminal()
    terminal.say("hello")
    terminal.warn("no GPU is seen")
    captured = capsys.readouterr()
    assert captured.out == "hello\n"
    assert captured.err == "no GPU is seen\n"


def test_ascii_streams_are_written_to():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with Terminal(stream).progress(10) as progress:
        progress.log_evaluation(10, [1.0, 1.5])
        progress.terminal.say("1 ± 2")
    assert b"evaluation    1.25  [  -1.93,    4.43]" in raw.getvalue()
    assert b"1 +- 2" in raw.getvalue()


def test_update_is_cheap():
    progress = Progress(Terminal(io.StringIO()), 10**9)
    costs = []
    for _ in range(5):
        began = time.perf_counter()
        for i in range(2000):
            progress.update(i, last_return=1.0)
        costs.append((time.perf_counter() - began) / 2000)
    assert min(costs) < 50e-6


LIVE = """
import sys, time
from polyak.show.terminal import Terminal
terminal = Terminal()
assert terminal.live
with terminal.status("compiling"):
    time.sleep(0.2)
with terminal.progress(1_000_000) as progress:
    for i in range(10):
        progress.update(50_000 * i, 12_345.0, 1234.5, 2345.6, "updating")
        time.sleep(0.05)
    progress.log_evaluation(450_000, [2390.0, 2400.0, 2410.0], 3)
    terminal.warn("careful")
    time.sleep(0.3)
"""


def run_under_pty(columns, **environ):
    """What a program writes on a terminal of this width."""
    main, other = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environ}
    process = subprocess.Popen([sys.executable, "-c", LIVE], stdout=other, stderr=other, stdin=other, env=env)
    os.close(other)
    written = b""
    while select.select([main], [], [], 20)[0]:
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(main)
    assert process.wait(10) == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [40, 80])
def test_live_line_fits_the_terminal_and_lasting_lines_stay(columns):
    written = run_under_pty(columns, NO_COLOR="1")
    assert "compiling" in written
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    drawn = [line for line in re.split(r"[\r\n]+", plain) if "/1M" in line]
    assert drawn
    assert max(map(len, drawn)) < columns
    assert any("2,345.6" in line for line in drawn)
    assert any("left" in line for line in drawn)
    assert "450,000 steps  evaluation 2,400.0  [2,375.2, 2,424.8]  (3 seeds)\r\n" in plain
    assert "careful" in plain
    assert not re.search(r"\x1b\[(3\d|38;)", written)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_live_line_has_colour_where_it_may():
    assert re.search(r"\x1b\[3\dm", run_under_pty(80))
