"""Work on a data set, shared out to processes; results in order."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")
Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING_TASKS = 2  # a worker, beside the one that it is at: what a slow reader of results holds

_work: tuple[Callable[[Any, Any], Any], Any]  # in a worker: the function and its job


def available_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    function: Callable[[Job, Task], Result], job: Job, tasks: Iterable[Task], *, workers: int
) -> Generator[Result, None, None]:
    """`function(job, task)` of every task, in order, computed by `workers` processes, or here if 0.

    The function and the job, which each process gets once, must be picklable. The processes start
    now, and end with the iterator, or with this process. Raises OSError if one is lost.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0: {workers}")
    if workers == 0:
        return (function(job, task) for task in tasks)
    executor = ProcessPoolExecutor(workers, initializer=_begin, initargs=(function, job))
    tasks = iter(tasks)
    waiting = (1 + WAITING_TASKS) * workers
    futures = collections.deque(
        executor.submit(_run, task) for task in itertools.islice(tasks, waiting)
    )
    return _results(executor, futures, tasks)


def _results(
    executor: ProcessPoolExecutor, futures: collections.deque[Future[Result]], tasks: Iterator[Any]
) -> Generator[Result, None, None]:
    try:
        while futures:
            result = futures.popleft().result()
            futures.extend(executor.submit(_run, task) for task in itertools.islice(tasks, 1))
            yield result
    except BrokenProcessPool as error:
        raise OSError(
            "a process that reads images was lost, for want of memory perhaps; lower --workers"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any, Any], Any], job: Any) -> None:
    global _work
    _work = (function, job)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the main process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else a worker whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(task: Any) -> Any:
    function, job = _work
    return function(job, task)
