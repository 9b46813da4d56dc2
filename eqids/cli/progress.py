"""What a command waits for: a bar on a terminal, and few lines elsewhere.

Waits of under two seconds say nothing. All of this goes to stderr, so that the output
of a command holds its results alone.
"""

import contextvars
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

from tqdm import tqdm

from eqids.cli.printing import processes_in_use, receiver, say_above_bars

SILENT_SECONDS = 2.0
"""Waits that take no longer are not reported."""
_RARER = 3
"""Lines without a terminal come after 2, 6, 18, 54, … seconds."""

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def bars_are_shown() -> bool:
    """Returns whether progress is a bar: on a terminal, or if Python code wants it."""
    processes = processes_in_use()
    if processes is not None and not processes.is_first():
        return False
    found = receiver()
    return sys.stderr.isatty() if found is None else found.bars


def progress_bar(**given: Any) -> "tqdm[Any]":
    """Returns a bar of tqdm, which is hidden where bars are not shown.

    Args:
        given: the arguments of `tqdm`.
    """
    return tqdm(**given, disable=not bars_are_shown())


def loading() -> AbstractContextManager[None]:
    """Says on a terminal that libraries are loaded, which commands do first.

    A log gets no line: a run's processes have not met yet, and the first alone prints.
    """
    return waiting("loading libraries", logged=False)


@contextmanager
def waiting(what: str, *, logged: bool = True) -> Iterator[None]:
    """Says what is waited for, once that has taken two seconds.

    It is for waits without a known end. On a terminal it shows the elapsed time.

    Args:
        what: what happens, `compiling the train step`.
        logged: whether it is said without a terminal, too.
    """
    ended = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_watch, what, ended, logged), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(what: str, ended: threading.Event, logged: bool) -> None:
    with progress_bar(
        desc=what,
        bar_format="{desc} … {elapsed}",
        leave=False,
        delay=SILENT_SECONDS,
    ) as bar:
        if ended.wait(SILENT_SECONDS):
            return
        if bar.disable:
            if logged:
                say_above_bars(f"{what} …", error=True)
            return
        bar.refresh()
        while not ended.wait(1):
            bar.refresh()


def first_call_announced(
    function: Callable[Given, Returned], what: str
) -> Callable[Given, Returned]:
    """Returns a function whose first call is reported if it takes long.

    Args:
        function: one that JAX compiles when it is called first.
        what: what its first call does.
    """
    called = False

    @functools.wraps(function)
    def announced(*given: Given.args, **named: Given.kwargs) -> Returned:
        nonlocal called
        if called:
            return function(*given, **named)
        called = True
        with waiting(what):
            return function(*given, **named)

    return announced


class Counted:
    """Counts what is done of a known number; a context manager.

    It shows a bar on a terminal until all is done. Elsewhere it prints a line with the
    time that is left after two seconds, and then ever more rarely.

    Attributes:
        done: how many are done.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "",
        now: Callable[[], float] = time.monotonic,
    ):
        """Starts the count.

        Args:
            what: what happens, `evaluating on valid`.
            total: how many there are; 0 if that is unknown, or `advance` says it.
            unit: what is counted, `users`, or nothing for bytes.
            now: a clock, in seconds.
        """
        self._what, self._total, self._unit, self._now = what, total, unit, now
        self.done, self._start = 0, now()
        self._due = SILENT_SECONDS
        self._bar = progress_bar(
            desc=what,
            total=total or None,
            unit=f" {unit}" if unit else "B",
            unit_scale=not unit,
            leave=False,
            delay=SILENT_SECONDS,
        )

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, number: int = 1) -> None:
        """Counts that so many more are done."""
        self.done += number
        self._bar.update(number)
        if self.done >= self._total > 0:
            self._bar.close()
        seconds = self._now() - self._start
        if not self._bar.disable or seconds < self._due or self.done >= self._total:
            return
        while self._due <= seconds:
            self._due *= _RARER
        left = seconds / self.done * (self._total - self.done)
        counts = f"{self.done:,} of {self._total:,} {self._unit}"
        if not self._unit:
            counts = f"{self.done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB"
        said = f"{self._what}: {counts}, about {shown_seconds(left)} left"
        say_above_bars(said, error=True)

    def advance(self, number: int, total: int) -> None:
        """Counts that so many more are done, of a total that is known only now."""
        self._bar.total = self._total = total
        self.update(number)


def shown_seconds(seconds: float) -> str:
    """Returns a duration as text: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
