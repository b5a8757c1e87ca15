"""What is looked at again and again, on a terminal or a pipe; keys change what that is."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import RprofError

__all__ = ["View", "fits", "show"]

_KEYS_SECONDS = 0.05
# After an error, which may come at once.
_RETRY_SECONDS = 1.0
_NEXT, _END = "t", "q"


class View(NamedTuple):
    """Something to look at."""

    name: str
    look: Callable[[], str | None]
    """Returns what to show; None if that is what is shown already."""
    pause: float
    """Seconds between two looks."""


def show(views: Sequence[View], has_ended: Callable[[], bool]) -> bool:
    """Show the first view, or one that a key has asked for, until it `has_ended` or a key says so.

    Returns:
        Whether it has ended.
    """
    # Beside a terminal only what is drawn on it is changed by keys.
    if len(views) < 2 or not sys.stdout.isatty():
        return _show(views, has_ended, None)
    from ._keys import keys_read, pressed

    with keys_read() as is_read:
        return _show(views, has_ended, pressed if is_read else None)


def fits(lines: Sequence[str]) -> bool:
    """Tell whether the terminal has room for these lines, and one that tells the keys."""
    columns, rows = shutil.get_terminal_size()
    # A terminal that does not know its size says 0.
    columns, rows = columns or 80, rows or 24
    return sum(max(1, -(-len(line) // columns)) for line in lines) < rows


class _Look:
    """Looks on a thread of its own, so that keys and Ctrl-C do not wait for the answer."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._over: threading.Event | None = None
        self._text: str | None = None
        self._error: BaseException | None = None

    def over(self) -> threading.Event:
        """Begin, unless that is done; return what tells that there is an answer."""
        if self._over is None:
            self._over = threading.Event()
            # The command's end waits for no answer.
            threading.Thread(
                target=self._find, args=(self._over,), name="look", daemon=True
            ).start()
        return self._over

    def take(self) -> str | None:
        """Return the answer, or raise the error."""
        error, self._over, self._error = self._error, None, None
        if error is not None:
            raise error
        return self._text

    def _find(self, over: threading.Event) -> None:
        try:
            self._text = self.view.look()
        except BaseException as error:
            self._error = error
        finally:
            over.set()


def _show(
    views: Sequence[View], has_ended: Callable[[], bool], pressed: Callable[[], str] | None
) -> bool:
    draw, end = _screen()
    # One for each view, so that keys do not make many looks at a time.
    looks = [_Look(view) for view in views]
    chosen = 0
    try:
        while True:
            other = views[(chosen + 1) % len(views)].name
            hint = f"{_NEXT}: {other}, {_END}: end\n" if pressed else ""
            key = _wait(looks[chosen].over(), None, pressed)
            if not key:
                pause = _draw(draw, looks[chosen], hint, is_asked_for=chosen == 0)
                if has_ended():
                    return True
                key = _wait(threading.Event(), pause, pressed)
            if key == _END:
                return False
            if key == _NEXT:
                chosen = (chosen + 1) % len(views)
                draw(f"looking at {other}")
    except KeyboardInterrupt:
        return False
    finally:
        end()


def _draw(draw: Callable[[str], None], look: _Look, hint: str, *, is_asked_for: bool) -> float:
    """Draw the answer; return the seconds after which to look again."""
    pause = look.view.pause
    try:
        text = look.take()
    except RprofError as error:
        # What a key has asked for may not be there; the rest still is.
        if is_asked_for:
            raise
        text = str(error)
        pause = max(pause, _RETRY_SECONDS)
    if text is not None:
        draw(hint + text)
    return pause


def _wait(over: threading.Event, seconds: float | None, pressed: Callable[[], str] | None) -> str:
    """Wait for an event, at most so long; return the key that came first, if one did."""
    if pressed is None:
        over.wait(seconds)
        return ""
    end = None if seconds is None else time.monotonic() + seconds
    while not over.is_set() and (end is None or time.monotonic() < end):
        over.wait(_KEYS_SECONDS)
        for key in pressed():
            if key in (_NEXT, _END):
                return key
    return ""


def _screen() -> tuple[Callable[[str], None], Callable[[], None]]:
    """Return how to draw a text, and how to end: by rich on a terminal, else plainly."""
    if not sys.stdout.isatty():
        return lambda text: print(text, flush=True), lambda: None
    try:
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        # Clear the screen and go to its corner (ECMA-48).
        return lambda text: print("\x1b[2J\x1b[H" + text, flush=True), lambda: None
    screen = Live(screen=True, auto_refresh=False)
    screen.start()
    return lambda text: screen.update(Text(text), refresh=True), screen.stop
