"""A progress bar on standard error, where that is a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A bar with count, rate in `unit` a second, and time left; gone when the block ends.

    Yields:
        A function to call once for each thing that is done.

    >>> with progress_bar("count", 2, "numbers") as advance:
    ...     for _ in range(2):
    ...         advance()
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (title, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    left = (TimeRemainingColumn(), TextColumn("left"))
    console, started, done = Console(stderr=True), time.monotonic(), 0
    with Progress(
        *(*columns, *left), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=total, rate="")

        def advance() -> None:
            nonlocal done
            done += 1
            rate = done / max(time.monotonic() - started, 1e-9)
            progress.update(task, advance=1, rate=f"{rate:.1f} {unit}/s")

        yield advance
