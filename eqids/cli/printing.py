"""Printing of users' texts, such as titles, ids and file names.

Commands print. Where Python code calls what a command does, `messages_to` sends the
same messages to a function of the caller's, or nowhere.
"""

import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Receiver:
    """What gets the messages of a call from Python code."""

    report: Callable[[str], None]
    """Receives each message; warnings begin with `warning: `."""
    bars: bool
    """Whether progress bars are shown."""


_RECEIVER: ContextVar[Receiver | None] = ContextVar("receiver", default=None)


@contextmanager
def messages_to(report: Callable[[str], None], bars: bool = False) -> Iterator[None]:
    """Sends what a command would print to a function; see `Receiver`.

    Threads that are started inside need `contextvars.copy_context` for that.
    """
    before = _RECEIVER.set(Receiver(report, bars))
    try:
        yield
    finally:
        _RECEIVER.reset(before)


def receiver() -> Receiver | None:
    """Returns what gets messages, or None where they are printed."""
    return _RECEIVER.get()


def one_line(text: str) -> str:
    """Returns a text as one line without characters that control a terminal.

    Line breaks, escapes, other control characters, marks of the writing direction and
    bytes of file names that are not UTF-8 are shown as escapes (`\\n`, `\\x1b`).
    """
    return text if text.isprintable() else "".join(map(_spelled, text))


def visible(text: str) -> str:
    """Returns a text of many lines without control characters; see `one_line`."""
    return "\n".join(map(one_line, text.split("\n")))


def shell_word(text: str) -> str:
    """Returns a text quoted as one word of a shell command, on one line."""
    if one_line(text) == text:
        return shlex.quote(text)
    # bash reads these as the same characters again.
    quoted = {"\\": "\\\\", "'": "\\'"}
    return f"$'{''.join(quoted.get(one) or _typed(one) for one in text)}'"


def _typed(char: str) -> str:
    if _spelled(char) == char:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


def _spelled(char: str) -> str:
    """Returns a character, or its escape if it controls a terminal or is invisible."""
    # Joiners belong to the spelling of words and emoji.
    if char in "\u200c\u200d":
        return char
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return char.encode("unicode_escape").decode() if hidden else char


def say(text: str) -> None:
    """Prints a text without control characters; only a run's first process prints."""
    _print(text, print)


def say_above_bars(text: str, error: bool = False) -> None:
    """Prints a text like `say`, above progress bars and at once.

    Args:
        text: the text.
        error: print to stderr, which holds no results.
    """

    def write(shown: str) -> None:
        stream = sys.stderr if error else sys.stdout
        tqdm.write(shown, file=stream)
        stream.flush()

    _print(text, write)


def warn(text: str) -> None:
    """Prints a warning beside a progress bar; only a run's first process prints."""
    say_above_bars(f"warning: {text}", error=True)


def _print(text: str, write: Callable[[str], None]) -> None:
    """Gives a text without control characters to its receiver, or else to `write`."""
    processes = processes_in_use()
    if processes is None or processes.is_first():
        found = receiver()
        (write if found is None else found.report)(visible(text))


def processes_in_use() -> Any:
    """Returns the module `sharding.processes` if it is loaded; it imports jax."""
    return sys.modules.get("sharding.processes")
