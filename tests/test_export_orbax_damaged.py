"""Broken exports of eqids-to-orbax: each refused in a sentence, nothing written."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from orbax_damage import Damage, change_json, cut, flip, refuses
from runs import save_noisy

from convert import __main__ as command
from eqids.config import TrainConfig
from eqids.data import Dataset

INFO = "eqids_orbax.json"


@pytest.fixture(scope="module")
def export(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What eqids-to-orbax wrote."""
    folder = tmp_path_factory.mktemp("orbax")
    flags = TrainConfig(data_dir=dataset.path, item_width=8, adapter="linear")
    save_noisy(folder / "run", flags, dataset)
    command.main(["eqids-to-orbax", str(folder / "run"), str(folder / "tree")])
    return folder / "tree"


def _data(tree: Path) -> Path:
    (file,) = (tree / "d").iterdir()
    return file


def _signed(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Changes the description, and signs it as if it had been written so."""

    def damage(tree: Path) -> None:
        about = json.loads((tree / INFO).read_text())
        change(about)
        (tree / INFO).write_text(json.dumps(about))
        digest = hashlib.sha256((tree / INFO).read_bytes()).hexdigest()
        (tree / f"{INFO}.sha256").write_text(f"{digest}  {INFO}\n")

    return damage


def _also_signed(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Changes a file of Orbax, and writes its new hash into the description."""

    def damage(tree: Path) -> None:
        change_json(name, change)(tree)
        digest = hashlib.sha256((tree / name).read_bytes()).hexdigest()
        _signed(lambda about: about["files"].update({name: digest}))(tree)

    return damage


GAP = "('params', 'gap_table')"
OURS: Mapping[str, tuple[Damage, str]] = {
    "no description": (lambda t: (t / INFO).unlink(), f"has no {INFO}"),
    "no guard": (lambda t: (t / f"{INFO}.sha256").unlink(), "no eqids_orbax.json.sha"),
    "description flipped": (lambda t: flip(t / INFO), "their SHA-256 differ"),
    "description cut": (lambda t: cut(t / INFO), "their SHA-256 differ"),
    "version": (_signed(lambda a: a.update(format_version=2)), "wanted 1"),
    "no files": (_signed(lambda a: a.pop("files")), "files is None, wanted dict"),
    "path above": (
        _signed(lambda a: a["files"].update({"../run/4/manifest.json": "0"})),
        "names the file ../run/4/manifest.json, wanted files inside",
    ),
    "absolute path": (
        _signed(lambda a: a["files"].update({"/etc/passwd": "0"})),
        "names the file /etc/passwd, wanted files inside",
    ),
    "data flipped": (lambda t: flip(_data(t)), "its SHA-256 differs"),
    "data cut": (lambda t: cut(_data(t)), "its SHA-256 differs"),
    "data lost": (lambda t: _data(t).unlink(), "has no file d/"),
    "database lost": (lambda t: (t / "manifest.ocdbt").unlink(), "no file manifest.o"),
    "structure lost": (lambda t: (t / "_METADATA").unlink(), "has no file _METADATA"),
    "other shape": (
        _signed(lambda a: a["arrays"]["params/gap_table"].update(shape=[9, 9])),
        "array params/gap_table is",
    ),
    "array lost": (
        _also_signed("_METADATA", lambda m: m["tree_metadata"].pop(GAP)),
        "array params/gap_table is None",
    ),
    "never committed": (
        _also_signed(
            "_CHECKPOINT_METADATA", lambda m: m.update(commit_timestamp_nsecs=None)
        ),
        "has no commit_timestamp_nsecs: a save was killed",
    ),
}  # fmt: skip
"""What is done to an export of ours, and what the command says of it."""


@pytest.mark.parametrize("case", OURS)
def test_broken_exports_are_refused(
    case: str, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(export, tmp_path / "tree")
    damage, says = OURS[case]
    damage(tmp_path / "tree")
    words = ["orbax-to-eqids", str(tmp_path / "tree"), str(tmp_path / "run")]
    refuses(words, says, tmp_path, capsys)
