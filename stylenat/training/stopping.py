"""How a run is stopped from outside: signals set a flag, and do nothing else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from stylenat.distributed import Largest, is_launched, world_size
from stylenat.ending import ending_in_time

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

# From Ctrl-C; from a scheduler that ends the job; from one that warns that it soon will.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# How long a rank that got a signal waits for images: if it leaves, the others cannot step.
PATIENCE_SECONDS = 10.0


class StopRequest:
    """Which signal asked the run to stop; None if none did."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.came_at = 0.0
        self.asked: Largest | None = None

    def note(self, number: int) -> None:
        if self.number is None:
            self.number, self.came_at = number, time.monotonic()

    def has_come(self) -> bool:
        """Whether this rank got a signal."""
        return self.number is not None

    def ends_waiting(self) -> bool:
        """Whether this rank stops waiting for images, which it may before a step has begun."""
        if self.number is None:
            return False
        return world_size() == 1 or time.monotonic() - self.came_at > PATIENCE_SECONDS

    def agreed(self, device: torch.device) -> signal.Signals | None:
        """The signal that some rank got, or None. All ranks get the same answer in the same step.

        With several ranks it is the answer to the question of the step before, so that none waits.
        """
        number = self.number or 0
        if world_size() > 1:
            asked, self.asked = self.asked, Largest(number, device)
            number = 0 if asked is None else asked.read()
        return signal.Signals(number) if number else None


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 only leave their number.

    So does SIGHUP under torchrun, which ends its processes when the terminal is closed.
    Otherwise SIGHUP is ignored, so that a closed terminal ends nothing. If the run does not end in
    time after a signal, the process does (see `ending`). Outside the main thread, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        request.note(number)

    handlers: dict[signal.Signals, Handler] = dict.fromkeys(STOPPING, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        handlers[signal.SIGHUP] = note if is_launched() else signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with ending_in_time():
            yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
