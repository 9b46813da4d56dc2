"""The line of column names of a CSV file, which says what separates its fields."""

import csv
from collections.abc import Sequence
from pathlib import Path

from eqids.config import UserError, require

_DELIMITERS = (",", "\t", ";", "|", "::", " ")
LONGEST_HEADER = 1 << 20
"""Most characters of a line of column names."""


def header_of(path: Path, text: Path, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the delimiter of a CSV file and the names of its columns.

    Args:
        path: the file, for messages.
        text: its content, unpacked.
        wanted: columns that identify the delimiter: it is the first that separates
            them.

    Raises:
        UserError: there is no line of names; see `first_line`.
    """
    splits = {one: _header(path, text, one) for one in _DELIMITERS}
    telling = [d for d, names in splits.items() if set(wanted) <= set(names)]
    delimiter = telling[0] if telling else max(splits, key=lambda d: len(splits[d]))
    return delimiter, splits[delimiter]


def first_line(path: Path, text: Path) -> str:
    """Returns the first line of a file of text.

    Args:
        path: the file, for messages.
        text: its content, unpacked.

    Raises:
        UserError: the file is empty, is not UTF-8, or begins with a line for Excel.
    """
    with text.open(encoding="utf-8-sig") as file:
        try:
            line = file.readline(LONGEST_HEADER)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 text ({error}); save it as UTF-8"
            ) from None
    require(bool(line.strip()), f"{path} is empty, wanted a line of column names")
    require(
        not line.lower().startswith("sep=") or len(line.strip()) > 5,
        f"{path} begins with {line.strip()!r}, a line for Excel; wanted column names "
        "in the first line: delete the one above them",
    )
    require(
        len(line) < LONGEST_HEADER,
        f"{path} has a first line of over {LONGEST_HEADER:,} characters, wanted one "
        "of column names",
    )
    return line


def _header(path: Path, text: Path, delimiter: str) -> list[str]:
    """The fields of the first line; a quoted name may contain a line end."""
    line = first_line(path, text)
    if len(delimiter) > 1:
        return line.rstrip("\r\n").split(delimiter)
    with text.open(encoding="utf-8-sig", newline="") as file:
        try:
            return next(csv.reader(file, delimiter=delimiter))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path} has no line of column names: {error}") from None
