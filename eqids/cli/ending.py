"""Exit codes of commands, and the one sentence for a user's mistake."""

import atexit
import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from eqids.cli.printing import one_line, processes_in_use
from eqids.config import Stopped, UserError

_ERRORS = {"sharding.layout": "LayoutError", "sharding.rendezvous": "ProcessesError"}
"""By module, the exceptions that report a user's mistake."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full or that the user may not use."""


def run_as_process(main: Callable[[], None]) -> None:
    """Does `run`, and ends the process where Python would begin to end itself.

    By then all threads of Python's are joined, what was registered with `atexit` since
    is done, and all output is written. But threads of libraries may be at work, and one
    that asks for Python's lock after that aborts the process ("terminate called without
    an active exception"), although the command did all it had to.

    Where something else runs the command, such as `runpy`, it ends the process.
    """
    code, program = 1, sys.modules["__main__"]

    def end() -> None:
        if sys.modules["__main__"] is program:
            _end(code)

    # What is registered first is called last.
    atexit.register(end)
    try:
        run(main)
    except SystemExit as ending:
        given = ending.code or 0
        code = given if isinstance(given, int) else 1
        raise
    code = 0


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(main: Callable[[], None]) -> None:
    """Runs a command's `main`, and turns exceptions into exit codes.

    A user's mistake prints one sentence and exits with 2. An interrupt exits with 130,
    as shells expect. A run that a signal stopped exits, once it is saved, with 128 plus
    the signal's number (143 for SIGTERM); a run that lost another of its processes with
    1; a command whose output nobody reads any more, as with `| head`, with 141. Every
    other exception is a mistake of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal lacks is printed as its escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The rest of the output goes nowhere; else Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _exit(130, "interrupted", together=False)
    except Stopped as stopped:
        _exit(128 + stopped.signal, one_line(str(stopped)))
    except Exception as error:
        _exit_by(error)
        raise


def _exit_by(error: Exception) -> None:
    """Exits as the error wants it; returns for a mistake of ours in one process."""
    processes = processes_in_use()
    sentence = _users_mistake(error)
    if sentence is not None:
        _exit(2, f"error: {one_line(sentence)}")
    if processes is not None and processes.lost_peer(error):
        _exit(
            1,
            "error: another process of this run has ended or cannot be reached; "
            f"its output says why ({str(error).splitlines()[0]}). To continue from "
            "the last checkpoint, give the same command in all processes",
            together=False,
        )
    if processes is not None and processes.beside_others():
        _exit(1, traceback.format_exc(), together=False)


def _exit(code: int, text: str, *, together: bool = True) -> NoReturn:
    """Prints a text and exits; `together` as in `sharding.leave`."""
    print(text, file=sys.stderr)
    processes = processes_in_use()
    if processes is not None:
        processes.leave(code, together=together)
    sys.exit(code)


def _users_mistake(error: Exception) -> str | None:
    """Returns the message of a mistake that the user can mend, or None."""
    loaded = {m: n for m, n in _ERRORS.items() if m in sys.modules}
    kinds = tuple(getattr(sys.modules[m], name) for m, name in loaded.items())
    if isinstance(error, (UserError, *kinds)):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        what = error.filename or "a file"
        return f"{what} cannot be read or written: {error.strerror or error}"
    return None
