"""Progress bars, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stylenat.distributed import is_main

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class Bar:
    """A live line of rich's columns, with `fields` for those that show text.

    It shows nothing unless standard error is a terminal and this is rank 0.
    """

    def __init__(self, total: int | None, *columns: ProgressColumn, **fields: Any) -> None:
        # Importing rich changes Python's random state.
        from rich.console import Console
        from rich.progress import Progress

        self.console = Console(stderr=True)
        self.is_live = self.console.is_terminal and is_main()
        self.progress = Progress(*columns, console=self.console, disable=not self.is_live)
        self.task = self.progress.add_task("", total=total, **fields)

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, steps: int) -> None:
        self.progress.advance(self.task, steps)

    def move(self, completed: int, **fields: Any) -> None:
        self.progress.update(self.task, completed=completed, **fields)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with count, speed and time left; yields `advance(steps)`."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.fields[text]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(total, *columns, text=description) as bar:
        yield bar.advance
