"""Inspect a file or folder: what it is, and which tensors it holds."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from convert.diagnosis import CONFIG, check_folder
from convert.gguf_config import gguf_config
from convert.gguf_file import MAGIC, read_gguf
from convert.gguf_llama import check_gguf
from convert.hf_config import read_config
from convert.hf_eqids import TENSORS_FILE, is_pair, read_pair
from convert.hf_files import shard_paths
from convert.hf_llama import check_llama
from convert.json_file import read_object
from convert.orbax_eqids import is_export
from convert.orbax_folder import holds_trees
from convert.orbax_read import OrbaxTree
from eqids.checkpoints import best_step, read_manifest, steps
from eqids.checkpoints.manifest import MANIFEST
from eqids.config import (
    LLAMA_PRESETS,
    LlamaConfig,
    ModelConfig,
    RunConfig,
    UserError,
    check_content,
    from_json,
    require,
    to_json,
)
from eqids.data.info import INFO_FILE, read_info

_FLOATS = re.compile(r"(b?float|b?f|q)\d", re.IGNORECASE)
_LAYER = re.compile(r"(?<=[./])\d+(?=[./])")


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a file, an array of a checkpoint or a column of data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Found:
    """What a file or folder is."""

    kind: str
    tensors: list[_Tensor] = field(default_factory=list)
    llama: LlamaConfig | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why it cannot be used as a Llama, if it looks like one."""


def inspect(path: Path) -> tuple[str, dict[str, Any]]:
    """Returns what a file or folder is: text to print, and the same as JSON values.

    Only headers are read, no weights.

    Raises:
        UserError: the path does not exist, has an unknown format, or is damaged.
    """
    require(path.exists(), f"{path} does not exist, wanted a file or a folder")
    found = _folder(path) if path.is_dir() else _file(path)
    preset = None if found.llama is None else _preset(found.llama)
    parameters = sum(one.size for one in found.tensors if _FLOATS.match(one.dtype))
    values = {
        "path": str(path),
        "kind": found.kind,
        **found.facts,
        "llama": None if found.llama is None else to_json(found.llama),
        "preset": preset,
        "parameters": parameters,
        "bytes": sum(one.num_bytes for one in found.tensors),
        "problem": found.problem,
    }
    lines = [f"{key:<14}{_as_text(value)}" for key, value in values.items() if value]
    tensors = [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.num_bytes}
        for t in found.tensors
    ]
    text = "\n".join([*_lines(found.tensors), *lines])
    return text, {**values, "tensors": tensors}


def _file(path: Path) -> _Found:
    check_content(path)
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start == MAGIC or path.suffix == ".gguf":
        return _gguf(path)
    require(
        path.suffix == ".safetensors",
        f"{path} begins with {start!r}, wanted GGUF, a file whose name ends in "
        ".safetensors, or a folder; give the whole folder of a model",
    )
    tensors, facts = _safetensors(path)
    return _Found("safetensors file", tensors, facts=facts)


def _gguf(path: Path) -> _Found:
    file = read_gguf(path)
    tensors = [
        _Tensor(name, one.kind, one.shape, one.num_bytes)
        for name, one in file.tensors.items()
    ]
    facts = {
        "architecture": file.metadata.get("general.architecture"),
        "name": file.metadata.get("general.name"),
        "tokenizer": file.metadata.get("tokenizer.ggml.pre"),
    }
    llama, problem = None, None
    try:
        llama = gguf_config(file)
        check_gguf(file)
    except UserError as error:
        problem = str(error)
    return _Found("GGUF file", tensors, llama, facts, problem)


def _safetensors(path: Path) -> tuple[list[_Tensor], dict[str, Any]]:
    check_content(path, binary=True)
    try:
        with safe_open(path, framework="np") as file:
            tensors = []
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                one = file.get_slice(key)
                shape, dtype = tuple(one.get_shape()), one.get_dtype()
                bits = int(re.sub(r"\D+", "", dtype.split("_")[0]) or 8)
                size = math.prod(shape) * bits // 8
                tensors.append(_Tensor(key, dtype, shape, size))
            return tensors, {"metadata": file.metadata() or {}}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not whole safetensors: {error}") from error


def _folder(path: Path) -> _Found:
    if (path / MANIFEST).is_file():
        return _checkpoint(path, "EqIDs checkpoint")
    if holds_trees(path):
        return _orbax(path)
    if steps(path):
        best = best_step(path) or steps(path)[-1]
        return _checkpoint(path / str(best), f"EqIDs run, its best step is {best}")
    if (path / INFO_FILE).is_file():
        return _dataset(path)
    if not (path / CONFIG).is_file():
        check_folder(path)  # raises, and says what else the folder is
    return _hugging_face(path)


def _checkpoint(path: Path, kind: str) -> _Found:
    manifest = read_manifest(path)
    meta = manifest.meta
    tensors = [
        _Tensor(name.replace("/", "."), one.dtype, one.shape, one.num_bytes)
        for name, one in manifest.arrays.items()
        if name.startswith("params/")
    ]
    facts: dict[str, Any] = {"step": manifest.step, "saved": manifest.saved}
    if "config" not in meta or "model" not in meta:
        return _Found(kind, tensors, facts=facts)
    run = from_json(RunConfig, meta["config"], f"{path}: config")
    sizes = from_json(ModelConfig, meta["model"], f"{path}: model")
    facts |= {
        "trains": run.strategy,
        "catalog": meta.get("catalog_id"),
        "score": meta.get("score"),
        "base": meta.get("base"),
    }
    return _Found(kind, tensors, sizes.llama, facts)


def _orbax(path: Path) -> _Found:
    tree = OrbaxTree(path)
    tensors = [
        _Tensor(
            name, one.dtype.name, one.shape, math.prod(one.shape) * one.dtype.itemsize
        )
        for name, one in tree.leaves.items()
    ]
    ours = "EqIDs checkpoint as a " if is_export(path) else ""
    return _Found(f"{ours}tree of Orbax", tensors, facts={"folder": str(tree.folder)})


def _dataset(path: Path) -> _Found:
    info = read_info(path / INFO_FILE)
    tensors = []
    for file in sorted(path.glob("*.safetensors")):
        for one in _safetensors(file)[0]:
            name = f"{file.stem}.{one.name}"
            tensors.append(_Tensor(name, one.dtype, one.shape, one.num_bytes))
    names = (
        "source",
        "num_users",
        "num_items",
        "num_events",
        "num_clusters",
        "cluster_size",
    )
    facts = {name: getattr(info, name) for name in (*names, "catalog_id")}
    return _Found("EqIDs dataset", tensors, facts=facts)


def _hugging_face(path: Path) -> _Found:
    tensors: list[_Tensor] = []
    facts: dict[str, Any] = {}
    problem, llama = None, None
    try:
        llama = read_config(path)
        check_llama(path)
    except ValueError as error:
        problem = str(error)
    try:
        names = read_object(path / CONFIG).get("architectures")
        facts["architecture"] = ", ".join(names) if isinstance(names, list) else names
        for file in shard_paths(path):
            tensors += _safetensors(file)[0]
    except ValueError as error:
        problem = problem or str(error)
    kind = "Hugging Face folder"
    if is_pair(path):
        kind = "Hugging Face folder with the rest of an EqIDs model (--init_from)"
        pair = read_pair(path)
        tensors += _safetensors(path / TENSORS_FILE)[0]
        names = ("catalog_id", "score", "base")
        facts |= {"step": pair.step, **{name: pair.meta.get(name) for name in names}}
    return _Found(kind, tensors, llama, facts, problem)


def _preset(config: LlamaConfig) -> str | None:
    return next((name for name, one in LLAMA_PRESETS.items() if one == config), None)


def _lines(tensors: list[_Tensor]) -> Iterator[str]:
    """Yields a line for each tensor; those that differ only in their layer share it."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[_Tensor]] = {}
    for one in tensors:
        name = _LAYER.sub("*", one.name)
        groups.setdefault((name, one.dtype, one.shape), []).append(one)
    width = max((len(name) for name, *_ in groups), default=0)
    for (name, dtype, shape), same in groups.items():
        shown = " x ".join(map(str, shape)) or "one number"
        count = f"{len(same)} x " if len(same) > 1 else ""
        size = f"{count}{same[0].num_bytes / 2**10:,.1f} KiB"
        yield f"{name:<{width}}  {dtype:<9} {shown:<22} {size}"


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(f"{key} {one}" for key, one in value.items())
        return text if len(text) <= 400 else f"{text[:400]} …"
    return f"{value:,}" if isinstance(value, int) else str(value)
