"""Checkpoints are complete or absent, and corruption is always detected."""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from corruptions import assert_detected, flip
from saved import assert_same, small_tree, tiny
from surroundings import full_disk, read_only_folder

from eqids.checkpoints import (
    LOCK,
    partials,
    read_manifest,
    resolve,
    restore,
    save,
    steps,
    verify,
)
from eqids.config import UserError


@pytest.mark.long
def test_every_corruption_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch)
    tree = small_tree(0)
    path = save(tmp_path, 10, tree, {})
    other = save(tmp_path, 20, small_tree(1), {})
    files, others = (
        sorted(p for p in d.rglob("*") if p.is_file()) for d in (path, other)
    )
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    for file, foreign in zip(files, others, strict=True):
        whole = file.read_bytes()
        cases = {
            "truncated": whole[: rng.randrange(len(whole))],
            "emptied": b"",
            "grown": whole + b"\0",
            "zeroed": bytes(len(whole)),
            "swapped": foreign.read_bytes(),
            "deleted": None,
        }
        cases |= {f"flipped {n}": flip(whole, rng) for n in range(6)}
        for case, data in cases.items():
            file.unlink() if data is None else file.write_bytes(data)
            what = f"{file.relative_to(path)} {case}, seed {seed}"
            assert_detected(path, tree, what)
            file.write_bytes(whole)
    assert len(files) >= 8
    assert verify(path) == []
    assert_same(restore(path, tree), tree)


@pytest.mark.parametrize("size", [190, 251])
def test_no_byte_of_a_part_is_unguarded(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restoring sees every flipped byte, whether or not tensorstore reads the chunk."""
    tiny(monkeypatch)
    tree = {"a": jnp.arange(float(size))}
    path = save(tmp_path, 1, tree, {})
    begins = any(file.start > 0 for file in read_manifest(path).files.values())
    assert begins is (size == 251)
    start = random.randrange(3)
    for file in (path / "arrays").rglob("*"):
        whole = file.read_bytes() if file.is_file() else b""
        for place in range(start, len(whole), 3):
            damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=f"file .*{file.name} is damaged"):
                restore(path, tree)
                pytest.fail(f"byte {place} of {file.name}")
        if whole:
            file.write_bytes(whole)


def test_another_checkpoint_under_this_name(tmp_path: Path) -> None:
    tree = small_tree()
    ten, twenty = (save(tmp_path, step, tree, {}) for step in (10, 20))
    for name in ("manifest.json", "manifest.json.sha256"):
        shutil.copy(twenty / name, ten / name)
    assert_detected(ten, tree, "manifest and guard of another step")
    twin = save(tmp_path / "twin", 20, small_tree(1), {})
    shutil.rmtree(twenty / "arrays")
    shutil.copytree(twin / "arrays", twenty / "arrays")
    assert_detected(twenty, tree, "arrays of another run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": None}, "array 'w' is stored, wanted no array of this name"),
        ({"v": jnp.zeros(2)}, r"array 'v' is absent, wanted float32\[2\]"),
        ({"w": jnp.zeros((3, 2))}, r"'w' is float32\[2, 3\], wanted float32\[3, 2\]"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16)}, r"'w' is .*, wanted bfloat16\[2, 3\]"),
        ({"k": jnp.zeros(2, jnp.uint32)}, r"'k' is key<fry>\[\], wanted uint32\[2\]"),
        ({"k": jax.random.key(0, impl="rbg")}, r"'k' is key<fry>\[\], wanted key<rbg>"),
    ],
)  # fmt: skip
def test_another_tree_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tree = {"w": jnp.ones((2, 3)), "k": jax.random.key(0)}
    path = save(tmp_path, 7, tree, {})
    with pytest.raises(UserError, match=f"^step 7 of .*{message}"):
        restore(path, tree | change)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {}, {})
    text = (path / "manifest.json").read_text().replace('_version": 2', '_version": 9')
    (path / "manifest.json").write_text(text)
    guard = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
    (path / "manifest.json.sha256").write_text(guard)
    with pytest.raises(UserError, match="has format_version 9, wanted 2 or lower"):
        restore(path, {})


def test_leaves_that_cannot_be_named_or_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="leaf 'a/0' is 1.5, wanted an array"):
        save(tmp_path, 1, {"a": [1.5]}, {})
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        save(tmp_path, 1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {})
    assert steps(tmp_path) == []


# Complete or absent


KILLED = """
import os, signal
from pathlib import Path
import jax.numpy as jnp
from eqids.checkpoints import save, step_folder
save(Path(FOLDER), 1, {"w": jnp.ones(3)}, {})
def killed(*args):
    os.kill(os.getpid(), signal.SIGKILL)
step_folder.POINT = killed
save(Path(FOLDER), 2, {"w": jnp.ones(3)}, {})
"""


@pytest.mark.parametrize("point", ["write_manifest", "sync"])
def test_killed_save_leaves_no_step(point: str, tmp_path: Path) -> None:
    code = KILLED.replace("FOLDER", repr(str(tmp_path))).replace("POINT", point)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert steps(tmp_path) == [1]
    assert [path.name for path in partials(tmp_path)] == [".2.partial"]
    assert resolve(tmp_path) == tmp_path / "1"
    assert verify(tmp_path / "1") == []
    save(tmp_path, 3, {"w": jnp.zeros(3)}, {})
    assert (steps(tmp_path), partials(tmp_path)) == ([1, 3], [])


@pytest.mark.parametrize("num_bytes", [100, 3000])
def test_failed_save_leaves_nothing(
    num_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch)
    save(tmp_path, 1, small_tree(), {})
    with (
        full_disk(num_bytes),
        pytest.raises(UserError, match="step 2 of .* not be saved: .*File too large$"),
    ):
        save(tmp_path, 2, small_tree(), {})
    assert {path.name for path in tmp_path.iterdir()} == {"1", LOCK}
    assert verify(save(tmp_path, 2, small_tree(), {})) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written to .File exists"):
        save(tmp_path / "file", 2, {}, {})


def test_folder_that_is_read_only() -> None:
    with read_only_folder() as folder:
        for path in (folder, folder / "run"):
            with pytest.raises(UserError, match="cannot be written to .Permission den"):
                save(path, 2, {}, {})


def test_a_step_is_never_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path, 4, {"w": jnp.ones(2)}, {})
    with pytest.raises(UserError, match="step 4 of .* exists already"):
        save(tmp_path, 4, {"w": jnp.zeros(2)}, {})
    assert_same(restore(path, {"w": jnp.zeros(2)}), {"w": jnp.ones(2)})
