"""Runs a command of ours in a process of its own, with its output in a file."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from eqids.config import Stopped

LogCommand = Callable[[str, Sequence[str], Path], int]
"""`run_logged`, or what a test puts in its place."""


def run_logged(module: str, words: Sequence[str], log: Path) -> int:
    """Runs `python -m module` and waits for its end; appends its output to a file.

    A SIGINT (Ctrl-C) or SIGTERM is passed on, so that a run saves and ends.

    Args:
        module: the command's module.
        words: its flags.
        log: the file; its folder is created.

    Returns:
        The exit code.

    Raises:
        Stopped: a signal came, and the command has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        # In a session of its own, so that Ctrl-C reaches it once: a second signal would
        # end a run before it is saved.
        child = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with _passing_signals_to(child) as received:
            code = child.wait()
    if received:
        name = signal.Signals(received[0]).name
        raise Stopped(f"stopped by {name}; the same command goes on", received[0])
    return code


def last_line(log: Path) -> str:
    """Returns the last line of a file that says anything: of an error, what it was."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it printed nothing"


@contextmanager
def _passing_signals_to(child: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Passes signals to stop on to a process; yields the list of those that came."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    stops = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, receive) for number in stops}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
