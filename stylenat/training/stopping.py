"""How a run is stopped from outside: signals that set a flag, and nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from stylenat.distributed import all_reduce_max_, is_launched, world_size

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

# Ctrl-C; a scheduler that ends the job; a scheduler that says that it soon will.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Which signal asked the run to stop; None where none did."""

    def __init__(self) -> None:
        self.number: int | None = None

    def has_come(self) -> bool:
        """Whether this rank got a signal."""
        return self.number is not None

    def agreed(self, device: torch.device) -> signal.Signals | None:
        """The signal that some rank got: all of them learn it in the same step."""
        number = self.number or 0
        if world_size() > 1:
            number = int(all_reduce_max_(torch.tensor(number, device=device)))
        return signal.Signals(number) if number else None


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 only leave their number.

    So does SIGHUP under torchrun, which ends its processes when the terminal is closed; else a
    closed terminal ends nothing. Outside the main thread, all signals are as they were.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        request.number = request.number or number

    handlers: dict[signal.Signals, Handler] = dict.fromkeys(STOPPING, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        handlers[signal.SIGHUP] = note if is_launched() else signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
