"""How a command ends: its exit codes, and one sentence for a user's mistake."""

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
"""Mistakes of the user, by the module that knows them."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What a disk refuses where its user lacks a right or space."""


def run(main: Callable[[], None]) -> None:
    """Runs a command's `main`: a user's mistake is one sentence and exit code 2.

    Interrupted, it exits with 130, as shells expect, and a run that a signal stopped
    and that is saved with 128 and the signal's number (143 for SIGTERM); where another
    process of the run is gone, with 1; where nobody reads its output any more, as
    behind `| head`, with 141; anything else is a fault of ours and stays a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without a character gets its escape instead of an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left to print goes nowhere, or Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _exit(130, "interrupted", together=False)
    except Stopped as stopped:
        _exit(128 + stopped.signal, one_line(str(stopped)))
    except Exception as error:
        processes = processes_in_use()
        sentence = _users_mistake(error)
        if sentence is not None:
            _exit(2, f"error: {one_line(sentence)}")
        if processes is not None and processes.lost_peer(error):
            _exit(
                1,
                "error: another process of this run has ended or cannot be reached, "
                f"its own output says why ({str(error).splitlines()[0]}); the same "
                "command in all processes goes on from the last checkpoint",
                together=False,
            )
        if processes is not None and processes.beside_others():
            _exit(1, traceback.format_exc(), together=False)
        raise


def _exit(code: int, text: str, *, together: bool = True) -> NoReturn:
    """Ends with a text; `together` with the processes beside this one, see `leave`."""
    print(text, file=sys.stderr)
    processes = processes_in_use()
    if processes is not None:
        processes.leave(code, together=together)
    sys.exit(code)


def _users_mistake(error: Exception) -> str | None:
    """Returns the sentence for a mistake that the user can mend, or None."""
    loaded = {m: n for m, n in _ERRORS.items() if m in sys.modules}
    kinds = tuple(getattr(sys.modules[m], name) for m, name in loaded.items())
    if isinstance(error, (UserError, *kinds)):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        what = error.filename or "a file"
        return f"{what} cannot be read or written: {error.strerror or error}"
    return None
