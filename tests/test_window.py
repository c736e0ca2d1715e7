"""The window of `polyak watch`, on SDL's screen that nobody sees: what it shows, and what its keys do."""

import os
import sys

import numpy as np
import pytest

from polyak.envs import unseen
from polyak.envs.find import find
from polyak.envs.worlds.classic_control import _renderer
from polyak.errors import UserError
from polyak.show.window import Window, shown

pygame = pytest.importorskip("pygame")
FPS = 1_000.0


def frames(count: int) -> list[np.ndarray]:
    """Pictures [8, 12, 3], each of another grey, with a red corner."""
    made = [np.full((8, 12, 3), 10 * i, np.uint8) for i in range(count)]
    for picture in made:
        picture[0, 0] = 255, 0, 0
    return made


def press(*keys: int) -> None:
    """As if a person pressed them one after the other."""
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


@pytest.fixture
def window():
    window = Window("a title", (8, 12), FPS)
    yield window
    window.close()


def on_screen() -> np.ndarray:
    """What the window shows [H, W, 3]."""
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


def test_all_pictures_are_shown_as_they_are():
    given, seen = frames(5), []
    for picture in shown(given, "a title", FPS):
        assert pygame.display.get_caption()[0] == "a title"
        seen.append((picture, on_screen()))
    assert len(seen) == 5
    for picture, (gave, showed) in zip(given, seen, strict=True):
        assert gave is picture
        np.testing.assert_array_equal(showed, picture)
    assert not pygame.display.get_init()


def test_a_larger_window_has_the_picture_in_its_middle(window):
    window.screen = pygame.display.set_mode((48, 16), pygame.RESIZABLE)
    assert window.show(np.full((8, 12, 3), 200, np.uint8))
    screen = on_screen()
    assert (screen[:, 12:36] == 200).all()
    assert (screen[:, :12] == (20, 24, 32)).all()
    assert (screen[:, 36:] == (20, 24, 32)).all()


@pytest.mark.parametrize("key", [pygame.K_ESCAPE, pygame.K_q, None])
def test_closing_it_ends_the_pictures(key):
    made, came = [], []

    def making():
        for picture in frames(10):
            made.append(picture)
            yield picture

    for picture in shown(making(), "a title", FPS):
        came.append(picture)
        if len(came) == 3:
            press(key) if key else pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert (len(came), len(made)) == (3, 4)
    assert not pygame.display.get_init()


def test_space_pauses_right_goes_one_on(window, monkeypatch):
    waits = []

    class Clock:
        """One that presses a key at each wait."""

        def tick(self, fps: float) -> None:
            waits.append(fps)
            press(*{1: [pygame.K_RIGHT], 3: [pygame.K_SPACE]}.get(len(waits), []))

    window.clock, pictures = Clock(), frames(3)
    press(pygame.K_SPACE)
    assert window.show(pictures[0])  # paused, until the key after the first wait is heard
    assert len(waits) == 2
    assert window.paused
    assert window.show(pictures[1])  # paused still, until space
    assert len(waits) == 4
    assert not window.paused
    assert window.show(pictures[2])
    assert len(waits) == 5
    np.testing.assert_array_equal(on_screen(), pictures[2])


def test_up_and_down_change_the_speed_within_bounds(window):
    waits = []
    window.clock = type("Clock", (), {"tick": lambda self, fps: waits.append(fps)})()
    for keys in ([], [pygame.K_UP], [pygame.K_DOWN] * 2, [pygame.K_UP] * 20, [pygame.K_DOWN] * 40):
        press(*keys)
        assert window.show(frames(1)[0])
    assert waits == [FPS, 2 * FPS, FPS / 2, 16 * FPS, FPS / 16]


def test_without_a_screen_a_line_says_so(no_driver_chosen, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.raises(UserError, match=r"no window can be opened .*: leave --window out"):
        next(shown(frames(1), "a title", FPS))
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UserError, match=r"needs pygame.*classic-control"):
        next(shown(frames(1), "a title", FPS))


def test_what_polyak_hid_it_shows_again_and_what_a_user_chose_stays(no_driver_chosen, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    unseen.hide_windows()
    unseen.show_windows()
    assert os.environ["SDL_VIDEODRIVER"] == "x11"
    monkeypatch.delenv("SDL_VIDEODRIVER")
    unseen.hide_windows()
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    unseen.hide_windows()  # what was hidden is not taken for the user's
    unseen.show_windows()
    assert "SDL_VIDEODRIVER" not in os.environ


@pytest.mark.parametrize("name", ["Pendulum-v1", "jax:Pendulum-v1"])
def test_a_window_opens_on_the_screen_although_its_environment_draws_into_memory(
    no_driver_chosen, monkeypatch, name
):
    unseen.hide_windows()
    if name.startswith("jax:"):
        drawing = _renderer.__wrapped__("Pendulum-v1")
    else:
        drawing = find(name).make_one("rgb_array")
        drawing.reset(seed=0)
    picture = drawing.render()
    assert pygame.display.get_driver() == "dummy"
    init, asked = pygame.display.init, []

    def seen():  # what a screen would be asked for: here there may be none
        asked.append((os.environ.get("SDL_VIDEODRIVER"), pygame.display.get_init()))
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        init()

    monkeypatch.setattr(pygame.display, "init", seen)
    for showed in shown([picture] * 2, "a title", FPS):
        np.testing.assert_array_equal(on_screen(), showed)
        assert drawing.render().shape == picture.shape  # it goes on drawing
    assert asked == [(None, False)]
    drawing.close()
