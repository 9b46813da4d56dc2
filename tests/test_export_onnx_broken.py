"""Exports as ONNX that were damaged or forged: the loader says so in a sentence."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from exports import run_alone
from onnx_exports import export_graph, graph_model, onnxruntime_alone

from eqids.data import Dataset

OPEN = """
import pathlib, runpy
made = runpy.run_path(sys.argv[1])["OnnxRecommender"]
for folder in sys.argv[2:]:
    try:
        made(pathlib.Path(folder))
        print("accepted", folder)
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
"""
"""Opens folders by the loader, and prints why it refuses each."""
WEIGHTS, GRAPH = "weights.safetensors", "model.onnx"


class BrokenFolders:
    """Copies of a whole export, with what the loader must say of each."""

    def __init__(self, whole: Path, into: Path):
        self.whole, self.into = whole, into
        self.wanted: dict[Path, str] = {}

    def copy(self, says: str) -> Path:
        folder = self.into / f"broken{len(self.wanted)}"
        shutil.copytree(self.whole, folder)
        self.wanted[folder] = says
        return folder

    def manifest(self, says: str, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.copy(says) / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    def forged(self, says: str, change: Callable[[Any], object]) -> None:
        """A changed graph whose digest the manifest has."""
        folder = self.copy(says)
        model = onnx.load(folder / GRAPH, load_external_data=False)
        change(model)
        data = model.SerializeToString()
        (folder / GRAPH).write_bytes(data)
        self._sign(folder, GRAPH, data)

    def weights(self, says: str, data: bytes) -> None:
        """Other weights, whose digest the manifest has."""
        folder = self.copy(says)
        (folder / WEIGHTS).write_bytes(data)
        self._sign(folder, WEIGHTS, data)

    def _sign(self, folder: Path, name: str, data: bytes) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256(data).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))


def external(model: Any) -> Any:
    """The first tensor that is in the file of weights."""
    return next(one for one in model.graph.initializer if one.external_data)


def set_entry(key: str, value: str) -> Callable[[Any], None]:
    """A change of where a graph finds its first tensor."""

    def change(model: Any) -> None:
        for entry in external(model).external_data:
            if entry.key == key:
                entry.value = value

    return change


def damaged(broken: BrokenFolders) -> None:
    """Files that are not what the manifest says."""
    for name in (GRAPH, WEIGHTS, "items.json"):
        data = (broken.whole / name).read_bytes()
        flipped = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
        says = f"{name} is not the file"
        (broken.copy(says) / name).write_bytes(flipped)
        (broken.copy(says) / name).write_bytes(data[:-1])
        (broken.copy(says) / name).write_bytes(b"")
    (broken.copy(f"No such file .*{WEIGHTS}") / WEIGHTS).unlink()
    (broken.copy("No such file .*manifest") / "manifest.json").unlink()
    text = (broken.whole / "manifest.json").read_text()
    says = "Expecting|Unterminated"
    (broken.copy(says) / "manifest.json").write_text(text[: len(text) // 2])
    deep = "[" * 100_000
    (broken.copy("recursion") / "manifest.json").write_text(deep)
    with (broken.copy("larger than") / "manifest.json").open("wb") as file:
        file.truncate(10**12)


def lying_manifests(broken: BrokenFolders) -> None:
    """Manifests that name other files, or none."""
    (broken.into / "secret").write_bytes(b"x")
    secret = hashlib.sha256(b"x").hexdigest()
    for name in ("../secret", str(broken.into / "secret"), "a/../../secret"):
        broken.manifest(
            "is outside of|No such", lambda m, n=name: m["files"].update({n: secret})
        )
    link = broken.copy("is outside of")
    (link / "items.json").unlink()
    (link / "items.json").symlink_to(broken.into / "secret")
    broken.manifest("NoneType", lambda m: m.update(files=None))
    broken.manifest(WEIGHTS, lambda m: m["files"].pop(WEIGHTS))
    broken.manifest(GRAPH, lambda m: m["files"].pop(GRAPH))
    broken.manifest("other.onnx", lambda m: m.update(graph="other.onnx"))


def forged_graphs(broken: BrokenFolders) -> None:
    """Graphs that a manifest was made for, which read elsewhere or too much."""
    for location in ("../secret", str(broken.into / "secret"), "items.json"):
        broken.forged("names another file", set_entry("location", location))
    broken.forged("names another file", lambda m: external(m).external_data.add(
        key="location", value=WEIGHTS + "/../items.json"))  # fmt: skip
    broken.forged("Fail|Runtime|out of", set_entry("offset", str(10**15)))
    broken.forged("Fail|Runtime|size", set_entry("length", str(10**15)))
    broken.forged("Fail|Runtime", lambda m: external(m).dims.append(10**12))
    broken.forged("Fail|Invalid|Runtime", lambda m: m.graph.node.pop(5))
    broken.weights("Fail|Runtime|bounds", b"short")


def test_broken_graphs_are_refused_in_a_sentence(
    dataset: Dataset, tmp_path: Path
) -> None:
    packages = onnxruntime_alone(tmp_path / "alone")
    opened, stored = graph_model(dataset, "ids")
    export_graph(tmp_path / "whole", opened, stored)
    broken = BrokenFolders(tmp_path / "whole", tmp_path)
    damaged(broken)
    lying_manifests(broken)
    forged_graphs(broken)
    assert len(broken.wanted) >= 28
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    loader = str(tmp_path / "whole/onnx_loader.py")
    folders = [str(tmp_path / "whole"), *map(str, broken.wanted)]
    done = run_alone(packages, tmp_path, OPEN, loader, *folders)
    assert done.returncode == 0, done.stderr[-3000:]
    first, *said = done.stdout.splitlines()
    assert first.startswith("accepted")
    assert len(said) == len(broken.wanted), done.stdout
    for line, (folder, says) in zip(said, broken.wanted.items(), strict=True):
        assert not line.startswith("accepted"), (folder, says)
        assert re.search(says, line), (folder, says, line)
    assert before == {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
