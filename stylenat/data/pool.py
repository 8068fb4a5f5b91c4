"""Work on a data set, shared out to processes; results come in order, and no wait is endless.

Each process has a socket to this one. A message is a file of its own in memory, whose descriptor
goes over the socket. So it arrives whole or not at all, and nobody waits in the middle of
one. Messages take no room in /dev/shm, which is small in containers.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import io
import itertools
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, util
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, BinaryIO, TypeVar

import numpy as np

from stylenat.ending import ASKING, seconds_from

Job = TypeVar("Job")
Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 2  # tasks per process: the one that it works at, and the next
POLL_SECONDS = 0.2
JOIN_SECONDS = 5.0
TIMEOUT_VARIABLE, TIMEOUT_SECONDS = "STYLENAT_DATA_TIMEOUT", 300.0

# This process's ends of all sockets: a forked child closes its copies, so that every process
# notices when this one ends.
_channels: set[socket.socket] = set()


class Interrupted(Exception):
    """The caller no longer wants to wait for a result."""


@dataclass(frozen=True)
class _Failure:
    """What a task raised, and where."""

    error: Exception
    trace: str


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    channel: socket.socket


def available_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    function: Callable[[Job, Task], Result],
    job: Job,
    tasks: Iterable[Task],
    *,
    workers: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> Generator[Result, None, None]:
    """`function(job, task)` of every task, in order, by `workers` processes; by this one if 0.

    The function and the job, which each process gets once, must be picklable, and so must results.
    The processes start now, and end with the iterator, or with this process, however it ends. What
    a task raises is raised here. Raises OSError if a process is lost, has no memory for a result,
    or gives none for 300 s (the environment variable STYLENAT_DATA_TIMEOUT), and Interrupted if
    `interrupted` becomes true while this process waits.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0: {workers}")
    timeout = seconds_from(TIMEOUT_VARIABLE, TIMEOUT_SECONDS)
    if workers == 0:
        return (function(job, task) for task in tasks)
    if not hasattr(socket, "send_fds"):
        raise ValueError(
            f"this system can't share work with other processes: {workers} workers, not 0"
        )
    started: list[_Worker] = []
    end = util.Finalize(None, _end, args=(started,), exitpriority=100)
    try:
        for _ in range(workers):
            started.append(_start(function, job))
    except BaseException:
        end()
        raise
    return _results(started, iter(tasks), interrupted, timeout, end)


def _results(
    workers: list[_Worker],
    tasks: Iterator[Any],
    interrupted: Callable[[], bool],
    timeout: float,
    end: util.Finalize,
) -> Generator[Any, None, None]:
    """Task i is worker i % len(workers)'s; each has a few tasks ahead."""
    try:
        in_turn = itertools.cycle(workers)
        asked: collections.deque[_Worker] = collections.deque()

        def ask(count: int) -> None:
            for worker, task in zip(in_turn, itertools.islice(tasks, count), strict=False):
                _send_task(worker, task)
                asked.append(worker)

        ask(TASKS_AHEAD * len(workers))
        while asked:
            answer = _answer_of(asked.popleft(), interrupted, timeout)
            if isinstance(answer, _Failure):
                if not isinstance(answer.error, ValueError | OSError):  # those errors are for users
                    answer.error.add_note(answer.trace)
                raise answer.error
            ask(1)
            yield answer
    finally:
        end()


def _send_task(worker: _Worker, task: object) -> None:
    # A lost process is named when its answer is waited for.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _send(worker.channel, task)


def _answer_of(worker: _Worker, interrupted: Callable[[], bool], timeout: float) -> Any:
    # Rounds are counted, not time: a process that was suspended is not late.
    for _ in range(max(1, round(timeout / POLL_SECONDS))):
        if connection.wait([worker.channel, worker.process.sentinel], POLL_SECONDS):
            try:
                return _receive(worker.channel)
            except (EOFError, ConnectionResetError) as error:
                raise _lost(worker.process) from error
        if interrupted():
            raise Interrupted
    raise OSError(
        f"a process that reads images, {worker.process.pid}, has given none for {timeout:g} s: its "
        f"disk or network may be gone; {TIMEOUT_VARIABLE} sets how long to wait"
    )


def _lost(process: BaseProcess) -> OSError:
    process.join(JOIN_SECONDS)
    code = process.exitcode
    how = f"ended by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return OSError(
        f"a process that reads images was lost ({how}), for want of memory perhaps; lower "
        "--workers, or data.workers: with 0, the main process reads"
    )


def _start(function: Callable[..., Any], job: Any) -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = multiprocessing.Process(
                target=_serve, args=(theirs, function, job), daemon=True
            )
            process.start()
        except BaseException:
            ours.close()
            raise
    _channels.add(ours)
    return _Worker(process, ours)


def _end(workers: list[_Worker]) -> None:
    """Kill the workers, since one that is reading may notice nothing else; wait only so long."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(JOIN_SECONDS)
        _channels.discard(worker.channel)
        worker.channel.close()


# What runs in a worker.


def _serve(channel: socket.socket, function: Callable[[Any, Any], Any], job: Any) -> None:
    # Ctrl-C, a closed terminal and a scheduler's signals reach all processes: the main one ends
    # the others.
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    for inherited in _channels:
        inherited.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # the main process has left
        while True:
            _answer(channel, _run(function, job, _receive(channel)))


def _run(function: Callable[[Any, Any], Any], job: Any, task: Any) -> Any:
    try:
        return function(job, task)
    except Exception as error:
        return _Failure(error.with_traceback(None), traceback.format_exc())


def _answer(channel: socket.socket, answer: Any) -> None:
    try:
        _send(channel, answer)
    except ConnectionError:
        raise
    except Exception as error:
        trace = traceback.format_exc()
        reason = (
            error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        )
        failure = OSError(
            f"a process that reads images could not hand over what it read: {reason}; lower "
            "--workers, or data.workers: with 0, the main process reads"
        )
        _send(channel, _Failure(failure, trace))


def _end_with_parent() -> None:
    """End this process when its parent ends: a worker that reads would notice only later."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# Messages: a table of lengths, the pickle, and the memory of its arrays.


def _send(channel: socket.socket, content: object) -> None:
    pickled, buffers = io.BytesIO(), []  # type: ignore[var-annotated]
    ForkingPickler(pickled, 5, True, buffers.append).dump(content)
    parts = [pickled.getbuffer(), *(buffer.raw() for buffer in buffers)]
    lengths = np.array([len(parts), *(part.nbytes for part in parts)], np.int64)
    with _memory_file() as file:
        for part in (lengths, *parts):
            file.write(part)
        file.flush()
        socket.send_fds(channel, [b"."], [file.fileno()])


def _receive(channel: socket.socket) -> Any:
    """The next message. Raises EOFError if the other side has left."""
    mark, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not mark:
        raise EOFError
    if not descriptors:
        raise OSError(errno.EMFILE, "too many open files for what other processes read")
    with open(descriptors[0], "rb") as file:  # noqa: PTH123 (a descriptor)
        file.seek(0)
        (count,) = np.fromfile(file, np.int64, 1)
        lengths = np.fromfile(file, np.int64, count)
        pickled, *buffers = (np.fromfile(file, np.uint8, length) for length in lengths)
    return ForkingPickler.loads(pickled.data, buffers=buffers)


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stylenat"), "wb")  # noqa: PTH123 (a descriptor)
    return tempfile.TemporaryFile()
