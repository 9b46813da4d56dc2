"""What every door shares: reading flags, and ending at a mistake of the user."""

import io
import os
import shlex
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from eqids.accelerators import choose_platform
from eqids.command_line import read, read_command
from eqids.config import Stopped, UserError, require
from eqids.help_text import asks_for_help, show_help, show_version

Config = TypeVar("Config")

_ERRORS = {"sharding.layout": "LayoutError", "sharding.rendezvous": "ProcessesError"}
"""Mistakes of the user, by the module that knows them."""


def parse(
    kind: type[Config],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Reads flags into a config, before anything that takes long is imported.

    Args:
        kind: the config's class, whose fields are the flags.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        defaults: what flags are that are not given, by name, in place of the class's.

    Raises:
        UserError: an unknown, repeated or contradictory flag, or a wrong value.
    """
    command, words = f"python -m {module}", _words(argv)
    _answer_questions({"": kind}, words, command, description, False)
    config = read(kind, words, command, defaults=defaults)
    choose_platform(config)
    return config


def parse_command(
    kinds: Mapping[str, type[Config]],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    *,
    positional: bool = False,
) -> Config:
    """Reads a command and its flags; see `parse`.

    Args:
        kinds: by the command's name, the config's class.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        positional: whether required fields are given by their place.

    Raises:
        UserError: an unknown command, an unknown, repeated or contradictory flag, or a
            wrong value.
    """
    command, words = f"python -m {module}", _words(argv)
    _answer_questions(kinds, words, command, description, positional)
    config = read_command(kinds, words, command, positional=positional)
    choose_platform(config)
    return config


def _words(argv: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if argv is None else argv


def _answer_questions(
    kinds: Mapping[str, type[Any]],
    words: Sequence[str],
    command: str,
    description: str,
    positional: bool,
) -> None:
    """Prints help or the version, where they are asked for, and exits."""
    if asks_for_help(words):
        show_help(kinds, words, command, description, positional)
    if "--version" in words:
        show_version()


def check_output(path: Path | None, flag: str, overwrite: bool = True) -> None:
    """Requires that a file can be written, before what takes long is done.

    Args:
        path: the file, or None where there will be none.
        flag: that names it.
        overwrite: whether a file that is there already is replaced.

    Raises:
        UserError: it is a folder or, unless it is to be replaced, there already; or
            its folder is not there or cannot be written to.
    """
    if path is None:
        return
    require(
        overwrite or path.is_dir() or not path.exists(),
        f"{flag} {path} exists already: add --overwrite to replace it, or choose "
        f"another {flag}",
    )
    require(not path.is_dir(), f"{flag} {path} is a folder, wanted a file to write")
    folder = path.parent
    require(
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        f"{flag} {path} cannot be written: {folder} is not a folder that exists and "
        "can be written to",
    )


def one_line(text: str) -> str:
    """Returns a text as one line that a terminal shows and does not obey.

    Line breaks, escapes, other control characters, those that change the direction of
    writing and bytes of file names that are no UTF-8 are spelled (`\\n`, `\\x1b`).
    """
    return text if text.isprintable() else "".join(map(_spelled, text))


def visible(text: str) -> str:
    """Returns a text of many lines as a terminal may show it; see `one_line`."""
    return "\n".join(map(one_line, text.split("\n")))


def shell_word(text: str) -> str:
    """Returns a text as one word of a command to type, on one line."""
    if one_line(text) == text:
        return shlex.quote(text)
    # What bash reads as the same characters again.
    quoted = {"\\": "\\\\", "'": "\\'"}
    return f"$'{''.join(quoted.get(one) or _typed(one) for one in text)}'"


def _typed(char: str) -> str:
    if _spelled(char) == char:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


def _spelled(char: str) -> str:
    """A character, or its escape where a terminal would obey it or show nothing."""
    # Joiners belong to the spelling of words and emoji.
    if char in "\u200c\u200d":
        return char
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return char.encode("unicode_escape").decode() if hidden else char


def say(text: str) -> None:
    """Prints a text, without what a terminal would obey; see `visible`.

    Of the processes of a run, the first one does.
    """
    processes = _processes()
    if processes is None or processes.is_first():
        print(visible(text))


def warn(text: str) -> None:
    """Prints what a user must know, beside a progress bar; the first process does."""
    processes = _processes()
    if processes is None or processes.is_first():
        tqdm.write(f"warning: {visible(text)}", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Runs a door's `main`: a user's mistake is one sentence and exit code 2.

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
        processes = _processes()
        if _is_users(error):
            _exit(2, f"error: {one_line(str(error))}")
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
    processes = _processes()
    if processes is not None:
        processes.leave(code, together=together)
    sys.exit(code)


def _is_users(error: Exception) -> bool:
    loaded = {m: n for m, n in _ERRORS.items() if m in sys.modules}
    kinds = tuple(getattr(sys.modules[m], name) for m, name in loaded.items())
    return isinstance(error, (UserError, *kinds))


def _processes() -> Any:
    """The module that knows processes, if it is in use: importing jax takes long."""
    return sys.modules.get("sharding.processes")
