"""Ends the process in time after a signal or an error, whatever it waits for.

Python runs a signal's handler in the main thread, between two instructions of Python. So it does
not run while that thread waits within a library, for example for another rank. Therefore a second
thread hears the signals too, and ends the process if the main thread does not do so in time:

- 25 s after a first signal, plus the longest step or save so far;
- 3 s after a second one;
- 25 s after an error, or after the command's last line, if something still keeps the process.

The environment variable STYLENAT_STOP_TIMEOUT sets other seconds in place of the 25.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE, FIRST_SECONDS = "STYLENAT_STOP_TIMEOUT", 25.0
SECOND_SECONDS = 3.0
# Signals within this time are one request: torchrun passes on what the terminal sends to all.
SAME_REQUEST_SECONDS = 1.0
# Some of them exist on POSIX systems only.
ASKING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
)

_watch: _Watch | None = None
_forgets_in_children = False


@contextmanager
def ending_in_time() -> Iterator[None]:
    """Within the block, signals and errors end the process in time, as above.

    Signals count if the process has a handler for them: those that it ignores, and those that end
    it by themselves, do not. In another thread than the main one, and within another such block,
    nothing happens.
    """
    global _watch
    is_main_thread = threading.current_thread() is threading.main_thread()
    if _watch is not None or not is_main_thread or (watch := end_in_time()) is None:
        yield
        return
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        _watch = None
        watch.stop()


def end_in_time() -> _Watch | None:
    """Do as `ending_in_time` until the process ends. For programs, to call once.

    On other systems than POSIX ones, nothing happens.
    """
    global _watch
    if os.name != "posix":
        return None
    _forget_in_children()
    _watch = _Watch()
    signal.set_wakeup_fd(_watch.write_end, warn_on_full_buffer=False)
    _watch.start()
    return _watch


def hurry(exit_code: int = 1) -> None:
    """End the process in 25 s, if it has not ended by itself until then.

    Outside of `ending_in_time` this does nothing.
    """
    if _watch is not None:
        _watch.end_within(_watch.patience, exit_code, "its work was over, and something kept it")


@contextmanager
def unhurried() -> Iterator[None]:
    """Time a step or a save, since after a signal the process may take that long once more."""
    start = time.monotonic()
    try:
        yield
    finally:
        if _watch is not None:
            _watch.slowest = max(_watch.slowest, time.monotonic() - start)


def seconds_from(variable: str, default: float) -> float:
    """The seconds that an environment variable sets. Raises ValueError unless positive."""
    text = os.environ.get(variable, "")
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 1e6:
        raise ValueError(f"{variable} must be a positive number of seconds: {text!r}")
    return seconds


class _Watch(threading.Thread):
    """Gets signals over a pipe, and ends the process at its deadline."""

    def __init__(self) -> None:
        super().__init__(name="stylenat-ending", daemon=True)
        self.read_end, self.write_end = os.pipe()
        for end in (self.read_end, self.write_end):
            os.set_blocking(end, False)
        self.patience = seconds_from(VARIABLE, FIRST_SECONDS)
        self.slowest = 0.0
        self.is_over = False
        self.deadline = math.inf
        self.exit_code, self.reason = 1, ""
        self.asked_at = -math.inf
        self.asked_by: int | None = None

    def run(self) -> None:
        while not self.is_over:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self._end()
            ready, _, _ = select.select([self.read_end], [], [], min(left, 3600.0))
            for number in os.read(self.read_end, 256) if ready else ():
                if number in ASKING:
                    self._hear(number)
        os.close(self.read_end)
        os.close(self.write_end)

    def _hear(self, number: int) -> None:
        now = time.monotonic()
        name = signal.Signals(number).name
        if self.asked_by is None:
            self.asked_by = number
            seconds = self.patience + self.slowest
            self._wait_until(now + seconds, 128 + number, f"{name} had come {seconds:.0f} s before")
        elif "RANK" not in os.environ or now - self.asked_at > SAME_REQUEST_SECONDS:
            self._wait_until(now + SECOND_SECONDS, 128 + self.asked_by, f"a second signal, {name}")
        self.asked_at = now

    def _wait_until(self, deadline: float, exit_code: int, reason: str) -> None:
        if deadline < self.deadline:
            self.deadline, self.exit_code, self.reason = deadline, exit_code, reason

    def end_within(self, seconds: float, exit_code: int, reason: str) -> None:
        self._wait_until(time.monotonic() + seconds, exit_code, reason)
        self._wake()

    def stop(self) -> None:
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self.write_end, b"\0")

    def _end(self) -> None:
        text = f"Error: ended in the middle of its work or of a wait: {self.reason}; what was "
        text += "saved before is whole\n"
        # Writing to a pipe that nobody reads must not keep the process either.
        if select.select([], [2], [], 0)[1]:
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.kill()
        os._exit(self.exit_code)


def _forget_in_children() -> None:
    """A forked child has the handlers and the pipe, but not the thread."""
    global _forgets_in_children
    if not _forgets_in_children and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
        _forgets_in_children = True


def _forget() -> None:
    global _watch
    if _watch is not None:
        _watch = None
        signal.set_wakeup_fd(-1)
