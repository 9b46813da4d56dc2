"""Write files and folders atomically: complete under their name, or absent."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eqids.config.errors import UserError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it if the block succeeds.

    An existing file is replaced in one step.

    Args:
        path: the file to write.

    Raises:
        UserError: the file could not be written; the temporary file is removed.
    """
    partial = partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} could not be written: {reason}") from error
    finally:
        with suppress(OSError):  # a read-only disk refuses to remove what is missing
            partial.unlink()


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `path`, and renames it if the block succeeds.

    Args:
        path: the folder to write.
        replace: whether an existing folder is replaced; otherwise it must not exist.

    Raises:
        UserError: the folder could not be written; the temporary folder is removed.
    """
    target = path.resolve()
    partial = partial_name(target)
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if replace and target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
        UserError: the file could not be written.
    """
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def partial_name(path: Path) -> Path:
    """Returns the temporary name of a file or folder, distinct for each process."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
