"""A progress bar for long work, drawn by rich."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from .._engine.recipe import Job

_PATIENCE = 1.0
"""Seconds before a bar appears."""


class Progress:
    """Counts leaves and bytes as they get under way; a context manager.

    `show` False never shows anything; None shows a bar after a second if stderr is a terminal;
    True does so without asking for a terminal.
    """

    def __init__(self, show: bool | None, jobs: Sequence[Job]):
        self._show = sys.stderr.isatty() if show is None else show
        self._leaves = sum(len(job.positions) for job in jobs)
        self._bytes = sum(map(_size, jobs))
        self._begun = time.monotonic()
        self._made = [0, 0]
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, job: Job) -> None:
        """Hears of one job whose leaves are under way."""
        if not self._show:
            return
        self._made[0] += len(job.positions)
        self._made[1] += _size(job)
        if self._bar is None and time.monotonic() - self._begun > _PATIENCE:
            self._start()
        if self._bar is not None:
            text = f"{self._made[0]}/{self._leaves} leaves"
            self._bar.update(self._task, completed=self._made[1], leaves=text)

    def _start(self) -> None:
        from rich import console, progress

        self._bar = progress.Progress(
            progress.TextColumn("initializing"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[leaves]}"),
            progress.DownloadColumn(binary_units=True),
            console=console.Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=self._bytes, leaves="")
        self._bar.start()


def _size(job: Job) -> int:
    return sum(value.aval.size * value.aval.dtype.itemsize for value in job.recipe.outputs)
