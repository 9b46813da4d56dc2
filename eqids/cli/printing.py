"""Printing what users brought: titles, ids, file names."""

import shlex
import sys
import unicodedata
from typing import Any

from tqdm import tqdm


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
    processes = processes_in_use()
    if processes is None or processes.is_first():
        print(visible(text))


def warn(text: str) -> None:
    """Prints what a user must know, beside a progress bar; the first process does."""
    processes = processes_in_use()
    if processes is None or processes.is_first():
        tqdm.write(f"warning: {visible(text)}", file=sys.stderr)


def processes_in_use() -> Any:
    """The module that knows processes, if it is in use: importing jax takes long."""
    return sys.modules.get("sharding.processes")
