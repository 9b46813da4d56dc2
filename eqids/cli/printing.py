"""Printing of users' texts, such as titles, ids and file names."""

import shlex
import sys
import unicodedata
from typing import Any

from tqdm import tqdm


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
    processes = processes_in_use()
    if processes is None or processes.is_first():
        print(visible(text))


def warn(text: str) -> None:
    """Prints a warning beside a progress bar; only a run's first process prints."""
    processes = processes_in_use()
    if processes is None or processes.is_first():
        tqdm.write(f"warning: {visible(text)}", file=sys.stderr)


def processes_in_use() -> Any:
    """Returns the module `sharding.processes` if it is loaded; it imports jax."""
    return sys.modules.get("sharding.processes")
