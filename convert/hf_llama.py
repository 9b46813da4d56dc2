"""A Hugging Face folder of safetensors, as a `Llama`.

Weights keep Hugging Face's order of axes, so that loading is a copy: each tensor is
read from the mapped file straight into its layer of the stacked array.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors import SafetensorError, safe_open

from convert.hf_config import read_config
from eqids.config import LlamaConfig, UserError, require
from eqids.model import Llama
from sharding import words

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Row:
    """One kind of tensor: its foreign key, our field, its foreign shape in words.

    A key with `{}` is one tensor a layer. A word joined by `*` is several of our
    axes in one of theirs.
    """

    key: str
    field: str
    axes: tuple[str, ...]


_LAYER = "model.layers.{}."
ROWS = (
    Row("model.embed_tokens.weight", "embedding", ("vocab", "width")),
    Row("model.norm.weight", "norm", ("width",)),
    Row("lm_head.weight", "lm_head", ("vocab", "width")),
    Row(_LAYER + "input_layernorm.weight", "attention_norm", ("width",)),
    Row(_LAYER + "self_attn.q_proj.weight", "wq", ("heads*head", "width")),
    Row(_LAYER + "self_attn.k_proj.weight", "wk", ("kv_heads*head", "width")),
    Row(_LAYER + "self_attn.v_proj.weight", "wv", ("kv_heads*head", "width")),
    Row(_LAYER + "self_attn.o_proj.weight", "wo", ("width", "heads*head")),
    Row(_LAYER + "post_attention_layernorm.weight", "ffn_norm", ("width",)),
    Row(_LAYER + "mlp.gate_proj.weight", "w_gate", ("ffn", "width")),
    Row(_LAYER + "mlp.up_proj.weight", "w_up", ("ffn", "width")),
    Row(_LAYER + "mlp.down_proj.weight", "w_down", ("width", "ffn")),
)
_IGNORED = ".self_attn.rotary_emb.inv_freq"
"""A table that old files store and everyone recomputes."""


def shard_paths(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder, by its index if it has one.

    Raises:
        UserError: there is none, one that the index names is missing, or the index
            names a file outside the folder.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is not an index of safetensors") from error
    else:
        names = [SINGLE]
    for name in names:
        require(
            isinstance(name, str) and Path(name).name == name,
            f"{index} names {name!r}, wanted a file inside the folder",
        )
        require((folder / name).is_file(), f"{folder} has no {name}")
    return [folder / name for name in names]


def fingerprint(folder: Path) -> str:
    """Returns the SHA-256 over a folder's safetensors files, in order of name."""
    total = hashlib.sha256()
    for path in shard_paths(folder):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def load_llama(path: Path | str, dtype: Any = jnp.float32) -> Llama:
    """Returns the Llama in a Hugging Face folder.

    Args:
        path: the folder: config.json and safetensors, in one file or in shards.
        dtype: what floating-point weights are cast to.

    Raises:
        UserError: a file is missing or broken, or a tensor is missing, surplus,
            doubled or misshapen; it names the file or tensor.
    """
    folder = Path(path)
    config = read_config(folder)
    abstract = eqx.filter_eval_shape(Llama, config, key=jax.random.key(0))
    with ExitStack() as stack:
        tensors = _open(stack, folder)
        leaves, treedef = jax.tree.flatten(abstract)
        axes = jax.tree.leaves(words(abstract))
        fields = [axis.field.removeprefix("blocks.") for axis in axes]
        loaded = [
            _read(folder, tensors, config, field, leaf, dtype)
            for field, leaf in zip(fields, leaves, strict=True)
        ]
        surplus = sorted(key for key in tensors if not key.endswith(_IGNORED))
        if config.tied:
            surplus = [key for key in surplus if key != "lm_head.weight"]
        require(
            not surplus,
            f"{folder} has {len(surplus)} tensors that a Llama has not, the first is "
            f"{surplus[0] if surplus else ''}",
        )
    llama = jax.tree.unflatten(treedef, loaded)
    words(llama)
    return llama


def _open(stack: ExitStack, folder: Path) -> dict[str, Any]:
    """Returns the open file of each tensor, by key."""
    tensors: dict[str, Any] = {}
    for path in shard_paths(folder):
        try:
            file = stack.enter_context(safe_open(path, framework="np"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not whole safetensors: {error}") from error
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            require(key not in tensors, f"{path}: {key} is in another shard as well")
            tensors[key] = file
    return tensors


def _read(
    folder: Path,
    tensors: dict[str, Any],
    config: LlamaConfig,
    field: str,
    like: jax.ShapeDtypeStruct,
    dtype: Any,
) -> Array:
    """Reads one field, all layers of it, and takes its keys out of `tensors`."""
    row = next(row for row in ROWS if row.field == field)
    stacked = "{}" in row.key
    num = config.num_layers if stacked else 1
    shape = _foreign_shape(row, config)
    out = np.empty((num, *shape), np.dtype(dtype))
    for layer in range(num):
        key = row.key.format(layer)
        require(key in tensors, f"{folder} has no tensor {key}")
        tensor = tensors.pop(key).get_tensor(key)
        require(
            tensor.shape == shape,
            f"{folder}: {key} has shape {tensor.shape}, wanted {shape}",
        )
        require(
            jnp.issubdtype(tensor.dtype, jnp.floating),
            f"{folder}: {key} has dtype {tensor.dtype}, wanted a floating-point one",
        )
        out[layer] = tensor
    return jnp.asarray(out.reshape(like.shape))


def _foreign_shape(row: Row, config: LlamaConfig) -> tuple[int, ...]:
    sizes: Mapping[str, int] = {
        "vocab": config.vocab,
        "width": config.width,
        "ffn": config.ffn,
        "heads*head": config.num_heads * config.head,
        "kv_heads*head": config.num_kv_heads * config.head,
    }
    return tuple(sizes[axis] for axis in row.axes)
