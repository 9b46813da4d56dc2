"""Prepares users' files for DuckDB: links with plain names, and unpacked copies.

DuckDB reads a name as a pattern (`plays[1].csv`), guesses columns from folder names,
and guesses compression from the end of a name. So it gets a link with a safe name, or
an unpacked copy, and the kind of a file is determined from its first bytes.
"""

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from eqids.config import UserError, check_content, require

PARQUET = b"PAR1"
"""First bytes of a Parquet file."""

_TAR, _TAR_AT = b"ustar", 257
"""The mark of a tar archive, and its position."""


def _open_zstd(path: Path) -> Any:
    return pa.input_stream(str(path), compression="zstd")


_COMPRESSED: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""First bytes of compressed files, and functions that open and check them."""

_OTHER_KINDS: Mapping[bytes, str] = {
    PARQUET: "a Parquet file, not text; give it as parquet:PATH, or with a name that "
    "ends in .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save it as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"ORC": "an ORC file; save it as Parquet",
    b"\x89HDF": "an HDF5 file; save it as Parquet or CSV",
    b"Obj\x01": "an Avro file; save it as Parquet",
    b"FEA1": "a Feather file; save it as Parquet",
    b"\x93NUMPY": "an array of NumPy; save it as CSV or Parquet",
    b"\x80\x04": "a pickle; save it as CSV or Parquet",
    b"\x80\x05": "a pickle; save it as CSV or Parquet",
    b"\x04\x22\x4d\x18": "packed as lz4; unpack it, or pack it by gzip or zstd",
    b"[{": "JSON; save it as CSV or Parquet",
    b'{"': "JSON; save it as CSV or Parquet",
    b"\xff\xfe\0\0": "not UTF-8 text: it begins with the mark of UTF-32; save it as "
    "UTF-8",
    b"\xff\xfe": "not UTF-8 text: it begins with the mark of UTF-16; save it as UTF-8",
    b"\xfe\xff": "not UTF-8 text: it begins with the mark of UTF-16; save it as UTF-8",
}
"""First bytes of formats that users give as text by mistake, and what to do about
each."""


def require_file(path: Path) -> None:
    """Raises UserError unless a path is a file that is not empty."""
    require(path.exists(), f"{path} does not exist")
    parts = path.is_dir() and any(path.glob("*.parquet"))
    hint = ": join the Parquet files in it first" if parts else ""
    require(path.is_file(), f"{path} is a folder, wanted a file{hint}")
    try:
        with path.open("rb") as file:
            require(bool(file.read(1)), f"{path} is empty")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def is_parquet(path: Path) -> bool:
    """Returns whether a file is Parquet, by its first bytes or the end of its name."""
    require_file(path)
    return _begins(path, PARQUET) or path.suffix.lower() in (".parquet", ".pq")


def parquet_files(path: Path) -> list[Path]:
    """Returns the Parquet files that a path names, in the order of their rows.

    Args:
        path: a file; or a folder, whose files of names that end in .parquet or .pq are
            taken, those of folders in it too, in the order of their paths. Names that
            begin with a dot or an underline are ignored.

    Raises:
        UserError: it is no file, or a folder without Parquet files.
    """
    if not path.is_dir():
        require_file(path)
        return [path]
    inside = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    kept = [
        file
        for file in inside
        if file.suffix.lower() in (".parquet", ".pq")
        and not any(part.startswith((".", "_")) for part in file.parts)
    ]
    require(bool(kept), f"{path} is a folder without files *.parquet or *.pq")
    files = [path / file for file in sorted(kept, key=lambda file: file.parts)]
    for file in files:
        require_file(file)
    return files


def linked(path: Path, folder: Path) -> Path:
    """Returns a link to a file, with a name that DuckDB takes literally.

    Args:
        path: the file.
        folder: where the link goes.
    """
    require_file(path)
    link = _new(folder)
    link.symlink_to(path.resolve())
    return link


def text_file(path: Path, folder: Path) -> Path:
    """Returns a file of plain text: a link, or an unpacked copy of a compressed file.

    Files compressed by gzip, zstd, bzip2 or xz are unpacked here, because DuckDB reads
    the first part of a truncated zstd file without an error.

    Args:
        path: the file.
        folder: where a link or the unpacked copy goes.

    Raises:
        UserError: the file does not exist, is no text, or is damaged.
    """
    require_file(path)
    for begin, opened in _COMPRESSED.items():
        if _begins(path, begin):
            copy = _unpacked(path, opened, _new(folder))
            packed = [one for one in _COMPRESSED if _begins(copy, one)]
            require(not packed, f"{path} is packed twice; unpack it once")
            _require_text(path, copy, "packed, and what is in it is ")
            return copy
    _require_text(path, path)
    check_content(path)
    return linked(path, folder)


def _require_text(path: Path, file: Path, what: str = "") -> None:
    """Raises UserError if a file is no text; its first bytes tell its kind."""
    for begin, kind in _OTHER_KINDS.items():
        require(not _begins(file, begin), f"{path} is {what}{kind}")
    with file.open("rb") as opened:
        start = opened.read(_TAR_AT + len(_TAR))
    require(
        not start.endswith(_TAR) or len(start) < _TAR_AT + len(_TAR),
        f"{path} is {what}a tar archive; unpack it",
    )


def _unpacked(path: Path, opened: Callable[[Path], Any], target: Path) -> Path:
    try:
        with opened(path) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.filename == str(target):
            raise
        raise UserError(
            f"{path} is compressed, and cannot be unpacked ({error}): it is cut off "
            "or damaged"
        ) from None
    require(target.stat().st_size > 0, f"{path} is empty")
    return target


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder)) / "file"


def _begins(path: Path, begin: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(begin)) == begin
