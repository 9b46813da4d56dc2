"""Write a Llama as a Hugging Face folder: config, weights, tokenizer and licence."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from convert.diagnosis import CONFIG, INDEX, SINGLE
from convert.hf_config import base_config, hf_config, read_config
from convert.hf_files import check_inside, tensors
from convert.hf_llama import check_llama
from convert.names import Tensor, tensors_of
from convert.outputs import (
    DTYPES,
    OutputFolder,
    Progress,
    Weight,
    output_folder,
    row_ranges,
)
from eqids.checkpoints import leaf_name
from eqids.config import LlamaConfig, check_content, require
from eqids.model import Llama

COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json", "LICENSE", "LICENSE.txt",
    "USE_POLICY.md", "README.md",
)  # fmt: skip
"""Files that are copied with the weights."""
_FREE_TEXTS = ("LICENSE", "USE_POLICY", "README", "chat_template")
"""Companions whose content is not checked."""

HEAD = "lm_head.weight"
"""The language-model head, of a Llama that is not tied."""

ReadArray = Callable[[str, int | None], np.ndarray]
"""Returns an array of a Llama by its path (blocks/wq), or one of its layers."""


def hf_to_hf(
    folder: Path,
    output: Path,
    *,
    dtype: np.dtype | None = None,
    num_layers: int | None = None,
    max_shard_bytes: int,
    advance: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Writes a copy of a folder: another dtype, files of another size, fewer layers.

    Args:
        folder: the folder of a Llama.
        output: the folder to write.
        dtype: what tensors are cast to; by default each is copied to the bit.
        num_layers: keep only so many layers, the first ones; by default all.
        max_shard_bytes: the largest size of a safetensors file.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the folder holds no whole Llama or fewer layers, `output` exists
            already or cannot be written, or a value does not fit `dtype`.
    """
    check_llama(folder)
    config = base_config(folder, None if dtype is None else str(dtype))
    left_out: set[str] = set()
    if num_layers is not None:
        left_out = _later_layers(folder, num_layers)
        config["num_hidden_layers"] = num_layers
    with tensors(folder) as found, output_folder(output, advance) as new:
        weights = {key: of_slice(found[key]) for key in found if key not in left_out}
        write_llama(new, weights, config, dtype, max_shard_bytes)
        copy_companions(new, folder)
    return new.digests


def _later_layers(folder: Path, num_layers: int) -> set[str]:
    """Returns the names of the tensors that come after the first layers."""
    config = read_config(folder)
    require(
        num_layers <= config.num_layers,
        f"--num_layers is {num_layers}, wanted at most the {config.num_layers} of "
        f"{folder}",
    )
    kept = dataclasses.replace(config, num_layers=num_layers)
    return set(llama_tensors(config)) - set(llama_tensors(kept))


def save_llama(
    llama: Llama,
    output: Path,
    *,
    dtype: np.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> dict[str, str]:
    """Writes a Llama in memory as a Hugging Face folder; see `hf_to_hf`.

    LoRA is merged. A `Llama` has no tokenizer, so none is written.

    Args:
        llama: on the devices of this process.
        output: the folder to write.
        dtype: what tensors are cast to; by default each keeps its own.
        max_shard_bytes: the largest size of a safetensors file.
    """
    read = arrays_of(llama)
    stored = np.dtype(llama.embedding.dtype)
    weights = llama_weights(llama.config, stored, read)
    if llama.blocks.lora is not None:
        scales = {name: one.scale for name, one in llama.blocks.lora.items()}
        weights = merged(weights, llama.config, scales, read)
    with output_folder(output) as new:
        config = hf_config(llama.config, str(dtype or stored))
        write_llama(new, weights, config, dtype, max_shard_bytes)
    return new.digests


def arrays_of(llama: Llama) -> ReadArray:
    """Returns a function that reads the arrays of a Llama in memory."""
    leaves = jax.tree_util.tree_leaves_with_path(llama)
    arrays = {leaf_name(route): leaf for route, leaf in leaves}

    def read(path: str, layer: int | None) -> np.ndarray:
        return np.asarray(arrays[path] if layer is None else arrays[path][layer])

    return read


def write_llama(
    new: OutputFolder,
    weights: Mapping[str, Weight],
    config: Mapping[str, Any],
    dtype: np.dtype | None,
    max_shard_bytes: int,
) -> None:
    """Writes config.json, the safetensors files and, if there are several, an index.

    Args:
        new: the folder to write into.
        weights: tensors by their names of Hugging Face.
        config: the content of config.json.
        dtype: what tensors are cast to; by default each keeps its own.
        max_shard_bytes: the largest size of a safetensors file.

    Raises:
        UserError: the tensors are not those of the config.
    """
    new.write_json(CONFIG, config)
    new.expect(weights, dtype)
    shards = _shards(weights, dtype, max_shard_bytes)
    for name, keys in shards.items():
        new.write_tensors(name, {key: weights[key] for key in keys}, dtype)
    if len(shards) > 1:
        total = sum(weight.num_bytes(dtype) for weight in weights.values())
        where = {key: name for name, keys in shards.items() for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        new.write_json(INDEX, index)
    check_llama(new.path)


def _shards(
    weights: Mapping[str, Weight], dtype: np.dtype | None, max_bytes: int
) -> dict[str, list[str]]:
    """Returns the tensors of each file, in order; one that is too large is alone."""
    groups: list[list[str]] = [[]]
    size = 0
    for key, weight in weights.items():
        more = weight.num_bytes(dtype)
        if groups[-1] and size + more > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += more
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    count = len(groups)
    return {
        f"model-{n:05}-of-{count:05}.safetensors": keys
        for n, keys in enumerate(groups, start=1)
    }


def copy_companions(new: OutputFolder, folder: Path) -> None:
    """Copies a folder's other files: the tokenizer, a licence."""
    for name in COMPANIONS:
        path = folder / name
        if path.is_symlink() or path.is_file():
            if not name.startswith(_FREE_TEXTS):
                check_content(path)
            check_inside(folder, path)
            if path.is_file():
                new.write(name, path.read_bytes())


def llama_tensors(config: LlamaConfig) -> dict[str, tuple[str, Tensor]]:
    """Returns the tensors of a Llama by name, each with the path of its array."""
    abstract = eqx.filter_eval_shape(Llama, config, key=jax.random.key(0))
    found = {}
    for route, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = leaf_name(route)
        for tensor in tensors_of(f"llama/{path}", leaf.shape):
            found[tensor.name] = (path, tensor)
    return found


def llama_weights(
    config: LlamaConfig, dtype: np.dtype, read: ReadArray
) -> dict[str, Weight]:
    """Returns the tensors of a Llama; each is read when it is written."""

    def weight(path: str, tensor: Tensor) -> Weight:
        def parts() -> Iterator[np.ndarray]:
            yield read(path, tensor.layer)

        return Weight(tensor.shape, dtype, parts)

    return {key: weight(*found) for key, found in llama_tensors(config).items()}


def merged(
    weights: Mapping[str, Weight],
    config: LlamaConfig,
    scales: Mapping[str, float],
    read: ReadArray,
) -> dict[str, Weight]:
    """Returns tensors with LoRA merged: `W + scale * B A`, in float32.

    Args:
        weights: the tensors of a Llama.
        config: of the Llama.
        scales: LoRA's scale by the weight's field in a block.
        read: returns LoRA's `blocks/lora/FIELD/a` [rank, *inputs] and `…/b`
            [*outputs, rank] of a layer.
    """
    float32 = np.dtype(np.float32)

    def merge(weight: Weight, field: str, layer: int | None) -> Weight:
        def parts() -> Iterator[np.ndarray]:
            a, b = (read(f"blocks/lora/{field}/{side}", layer) for side in "ab")
            num_rows, num_columns = weight.shape
            a = a.reshape(-1, num_columns).astype(np.float32)
            b = scales[field] * b.reshape(num_rows, -1).astype(np.float32)
            start = 0
            for part in weight.parts():
                rows = part.reshape(-1, num_columns).astype(np.float32)
                yield rows + b[start : start + len(rows)] @ a
                start += len(rows)

        return Weight(weight.shape, float32, parts)

    out = dict(weights)
    for key, (path, tensor) in llama_tensors(config).items():
        field = path.removeprefix("blocks/")
        if path.startswith("blocks/") and field in scales:
            out[key] = merge(weights[key], field, tensor.layer)
    return out


def of_slice(tensor: Any) -> Weight:
    """Returns a slice of safetensors as a tensor to write, a few rows at a time."""
    shape, name = tuple(tensor.get_shape()), tensor.get_dtype()
    require(
        name in DTYPES, f"a tensor has dtype {name}, wanted one of {sorted(DTYPES)}"
    )
    dtype = DTYPES[name]

    def parts() -> Iterator[np.ndarray]:
        if not shape:
            yield np.asarray(tensor[()])
            return
        row = int(np.prod(shape[1:])) * dtype.itemsize
        for rows in row_ranges(shape[0], row):
            yield tensor[rows]

    return Weight(shape, dtype, parts)
