"""The data sets of `python -m bench quality`: prepared once, by `eqids.prepare`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.code_digest import code_digest
from bench.logged_command import LogCommand, last_line
from bench.quality_options import QualityOptions
from bench.quality_settings import Setting
from eqids.config import UserError, require
from eqids.io.digests import file_sha256

_NAMED = ("ml-100k", "beauty", "ml-1m")
"""Data sets that the bench knows how to prepare."""


@dataclass(frozen=True)
class DataSource:
    """A data set, and how to get its dataset folder.

    Attributes:
        name: its name in tables and folders.
        prepare: flags of `eqids.prepare`.
        files: the files that it reads.
        prepared: the dataset folder, in place of the two.
    """

    name: str
    prepare: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    prepared: Path | None = None


def data_sources(options: QualityOptions) -> list[DataSource]:
    """Returns the data sets to train on, in the order of the flags.

    Raises:
        UserError: a name is unknown, or the path of a data set is missing or wrong.
    """
    own = dict(_own(text) for text in options.prepared)
    found = []
    for name in options.data or tuple(own) or ("ml-100k",):
        known = ", ".join(dict.fromkeys((*_NAMED, *own)))
        require(
            name in _NAMED or name in own,
            f"--data has {name!r}, wanted some of {known}; --prepared NAME=DIR adds "
            "others",
        )
        if name in own:
            found.append(DataSource(name, prepared=own[name]))
        elif name == "ml-100k":
            found.append(DataSource(name, ("--source", "ml-100k")))
        elif name == "beauty":
            found.append(_beauty(options.beauty))
        else:
            found.append(_ml_1m(options.ml_1m))
    return found


def _own(text: str) -> tuple[str, Path]:
    """Reads NAME=DIR."""
    name, _, path = text.partition("=")
    require(
        name != "" and path != "" and "/" not in name,
        f"--prepared is {text!r}, wanted NAME=DIR with a dataset folder",
    )
    require(
        name not in _NAMED,
        f"--prepared {text}: {name} is a data set that the bench prepares itself, "
        "wanted another name",
    )
    require(
        (Path(path) / "dataset.json").is_file(),
        f"--prepared {text}: {path} is not a dataset folder, see python -m "
        "eqids.prepare",
    )
    return name, Path(path).absolute()


def _beauty(folder: Path | None) -> DataSource:
    events, items = _files(
        "beauty", "--beauty", folder, "interactions.parquet", "items.parquet"
    )
    # Its clock counts days, so `order` alone says what came first.
    flags = ("--source", f"parquet:{events}", "--items", str(items),
             "--user_column", "user", "--item_column", "item",
             "--order_column", "order", "--time_column", "None",
             "--text", "{title}, {brand}, {categories}")  # fmt: skip
    return DataSource("beauty", flags, (events, items))


def _ml_1m(folder: Path | None) -> DataSource:
    events, items = _files("ml-1m", "--ml_1m", folder, "interactions.csv", "items.csv")
    flags = ("--source", f"csv:{events}", "--items", str(items),
             "--user_column", "user", "--item_column", "item",
             "--order_column", "order", "--time_column", "timestamp",
             "--text", "{title} ({year}), {genres}")  # fmt: skip
    return DataSource("ml-1m", flags, (events, items))


def _files(name: str, flag: str, folder: Path | None, *names: str) -> list[Path]:
    """Returns the files of a data set, which must exist."""
    if folder is None:
        raise UserError(
            f"--data {name} needs {flag} DIR, the folder of its {' and '.join(names)}"
        )
    for one in names:
        require(
            (folder / one).is_file(),
            f"{flag} {folder}: there is no {one} in it, wanted the folder of "
            f"{' and '.join(names)}",
        )
    return [(folder / one).absolute() for one in names]


def dataset_folder(
    source: DataSource, setting: Setting, folder: Path, run: LogCommand
) -> Path:
    """Returns the dataset folder of a setting, prepared if it does not exist.

    The folder's name has a digest of flags, files and code, so nothing is overwritten.

    Args:
        source: the data set.
        setting: what will be trained; it may have flags of `eqids.prepare`.
        folder: the folder of all datasets.
        run: runs a command.

    Raises:
        UserError: `eqids.prepare` ended with an error.
    """
    more = setting.prepare.get(source.name, ())
    if source.prepared is not None:
        require(
            not more,
            f"setting {setting.name} changes how {source.name} is prepared, and "
            f"--prepared gives {source.prepared}; wanted one of the two",
        )
        return source.prepared
    flags = [*source.prepare, *more]
    content = [file_sha256(path) for path in source.files]
    label = digest({"flags": flags, "files": content, "code": code_digest()})[:10]
    path, log = folder / f"{source.name}-{label}", folder / f"{source.name}-{label}.log"
    if not path.exists():
        code = run("eqids.prepare", [*flags, "--data_dir", str(path)], log)
        if code != 0:
            said = last_line(log)
            raise UserError(
                f"--data {source.name} could not be prepared, see {log}: {said}"
            )
    return path.absolute()


def digest(values: Mapping[str, object]) -> str:
    """Returns the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
