"""Pygame without a screen or a sound card, where pictures are wanted and no window."""

import os

UNSEEN = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
hidden: set[str] = set()  # those of them that were set here, and not by the user


def hide_windows() -> None:
    """Let pygame draw into memory and be silent; an SDL driver that the user chose stays."""
    missing = UNSEEN.keys() - os.environ.keys()
    os.environ.update({name: UNSEEN[name] for name in missing})
    hidden.update(missing)


def show_windows() -> None:
    """Let pygame draw on the screen again, unless the user chose an SDL driver.

    A display that is open already has the driver of that time, and has to be closed first.
    """
    if "SDL_VIDEODRIVER" in hidden:
        hidden.remove("SDL_VIDEODRIVER")
        os.environ.pop("SDL_VIDEODRIVER", None)
