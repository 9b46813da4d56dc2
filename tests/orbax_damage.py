"""Damage to folders of Orbax, and what the command must do about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import refused

from convert import __main__ as command

Damage = Callable[[Path], object]


def flip(path: Path, at: int = -100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_json(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(tree: Path) -> None:
        values = json.loads((tree / name).read_text())
        change(values)
        (tree / name).write_text(json.dumps(values))

    return damage


def refuses(
    words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    said = refused(command.main, words, capsys)
    assert says in said, said
    assert said.count("\n") == 1, said
    assert sorted(folder.rglob("*")) == before
