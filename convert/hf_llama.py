"""Load a Hugging Face folder of safetensors as a `Llama`.

Weights keep Hugging Face's order of axes, so that loading is a copy: each process
reads the part of a stacked array that its devices hold. Several threads read whole rows
of tensors straight to their place, and cast and check them while they are in a cache.
The result never shares memory with a mapped file, which somebody might cut short or
write over while the model is in use.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from convert.diagnosis import CONFIG
from convert.finite import finite
from convert.hf_config import read_config
from convert.hf_files import tensors
from convert.lazy_field import TensorRow, lazy_array
from convert.outputs import row_ranges
from convert.quantized import check_dtypes
from convert.stored_tensor import StoredTensor
from eqids.config import LlamaConfig, require
from eqids.model import Llama
from sharding import Placement, Words, words

_LAYER = "model.layers.{}."
ROWS = (
    TensorRow("model.embed_tokens.weight", "embedding", ("vocab", "width")),
    TensorRow("model.norm.weight", "norm", ("width",)),
    TensorRow("lm_head.weight", "lm_head", ("vocab", "width")),
    TensorRow(_LAYER + "input_layernorm.weight", "attention_norm", ("width",)),
    TensorRow(_LAYER + "self_attn.q_proj.weight", "wq", ("heads*head", "width")),
    TensorRow(_LAYER + "self_attn.k_proj.weight", "wk", ("kv_heads*head", "width")),
    TensorRow(_LAYER + "self_attn.v_proj.weight", "wv", ("kv_heads*head", "width")),
    TensorRow(_LAYER + "self_attn.o_proj.weight", "wo", ("width", "heads*head")),
    TensorRow(_LAYER + "post_attention_layernorm.weight", "ffn_norm", ("width",)),
    TensorRow(_LAYER + "mlp.gate_proj.weight", "w_gate", ("ffn", "width")),
    TensorRow(_LAYER + "mlp.up_proj.weight", "w_up", ("ffn", "width")),
    TensorRow(_LAYER + "mlp.down_proj.weight", "w_down", ("width", "ffn")),
)
"""Every tensor of a Llama; a tied Llama has no lm_head."""
_OF_LAYER, _LORA = re.compile(r"model\.layers\.([0-9]{1,6})\."), ".lora_"
_IGNORED = ".self_attn.rotary_emb.inv_freq"
"""RoPE's frequencies, which old files store; they are computed instead."""
_NO_MESH = Placement(None, None)
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load_llama(
    path: Path | str,
    dtype: DTypeLike = jnp.float32,
    put: Placement = _NO_MESH,
    *,
    head: bool = True,
) -> Llama:
    """Returns the Llama in a Hugging Face folder.

    All errors but values that are not finite are found before a weight is read.

    Args:
        path: the folder: config.json and safetensors, in one file or in shards.
        dtype: what weights are cast to.
        put: where they go; each process reads only what its devices hold. By default
            all go to the default device.
        head: also load the language-model head, if it is not the embedding.

    Raises:
        UserError: a file is missing or broken, or a tensor is missing, surplus,
            stored twice, misshapen or not finite; the message names file or tensor.
        LayoutError: a mesh axis does not divide an array.
    """
    folder = Path(path)
    config = read_config(folder)
    infinite = set[str]()
    with tensors(folder) as found:
        llama = _lazy_llama(folder, found, config, dtype, infinite)
        llama = put(llama if head else llama.headless())
    _check_finite(folder, llama, infinite)
    return llama


def check_llama(folder: Path) -> LlamaConfig:
    """Returns the config of the Llama in a folder, after comparing the files' headers.

    No weight is read.

    Raises:
        UserError: as `load_llama` does.
    """
    config = read_config(folder)
    with tensors(folder) as found:
        _lazy_llama(folder, found, config, jnp.float32, None)
    return config


def _lazy_llama(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    config: LlamaConfig,
    dtype: DTypeLike,
    infinite: set[str] | None,
) -> Llama:
    """Returns a Llama of lazy arrays, after checking keys, shapes and dtypes.

    Args:
        folder: the folder.
        tensors: its tensors.
        config: its config.
        dtype: what weights are cast to.
        infinite: receives the keys of tensors that are found not to be finite.
    """
    check_dtypes(
        folder,
        {k: t.get_dtype() for k, t in tensors.items() if not k.endswith(_IGNORED)},
    )
    _check_whole(folder, tensors, config)
    abstract = eqx.filter_eval_shape(Llama, config, key=jax.random.key(0))
    leaves, treedef = jax.tree.flatten(abstract)
    axes = jax.tree.leaves(words(abstract))
    used, lazy = set[str](), []
    for axis, leaf in zip(axes, leaves, strict=True):
        row = _row(axis)
        for key in tensor_keys(row, config):
            _check(folder, tensors, key, file_shape(row, config))
        keys = list(tensor_keys(row, config))
        parts = [tensors[key] for key in keys]
        lazy.append(lazy_array(row, parts, leaf.shape, np.dtype(dtype), infinite))
        used |= set(keys)
    if config.tied and _HEAD in tensors:
        _check_tied(folder, tensors)
        used.add(_HEAD)
    surplus = [key for key in sorted(tensors) if key not in used]
    surplus = [key for key in surplus if not key.endswith(_IGNORED)]
    require(
        not surplus,
        f"{folder} has {len(surplus)} tensors that no Llama has, the first is "
        f"{surplus[0] if surplus else ''}",
    )
    return jax.tree.unflatten(treedef, lazy)


def _check_whole(
    folder: Path, tensors: Mapping[str, StoredTensor], config: LlamaConfig
) -> None:
    """Requires that no tensor is an adapter's, and the config's number of layers."""
    of_peft = [k for k in sorted(tensors) if k.startswith("base_model.") or _LORA in k]
    require(
        not of_peft,
        f"{folder} has tensors of PEFT ({of_peft[0] if of_peft else ''}), wanted a "
        "whole Llama: merge the adapter with PEFT's merge_and_unload(), then "
        "save_pretrained(DIR)",
    )
    layers = {int(found[1]) for key in tensors if (found := _OF_LAYER.match(key))}
    num_layers = 1 + max(layers, default=-1)
    # If a layer in between is missing, its first tensor is named later.
    require(
        num_layers in (0, config.num_layers) or len(layers) < num_layers,
        f"{folder} has tensors of {num_layers} layers, and {CONFIG} says "
        f"num_hidden_layers {config.num_layers}; wanted the {CONFIG} that belongs to "
        "these weights, or the weights that are missing",
    )


def _check_finite(folder: Path, llama: Llama, infinite: set[str]) -> None:
    """Requires that all weights are finite after the cast.

    Args:
        folder: the folder.
        llama: the weights.
        infinite: keys of those that are not, as this process has read them.
    """
    if jax.process_count() == 1:
        keys = (
            key
            for axes in jax.tree.leaves(words(llama))
            for key in tensor_keys(_row(axes), llama.config)
        )
        first = next((key for key in keys if key in infinite), None)
        require(first is None, f"{folder}: {first} has values that are not finite")
        return
    # No process has read all weights, and all must raise.
    rows = map(_row, jax.tree.leaves(words(llama)))
    for row, found in zip(rows, jax.tree.leaves(finite(llama)), strict=True):
        of_keys = np.atleast_1d(np.asarray(found))
        for key, fine in zip(tensor_keys(row, llama.config), of_keys, strict=True):
            require(bool(fine), f"{folder}: {key} has values that are not finite")


def _row(axes: Words) -> TensorRow:
    field = axes.field.removeprefix("blocks.")
    return next(row for row in ROWS if row.field == field)


def tensor_keys(row: TensorRow, config: LlamaConfig) -> Iterator[str]:
    """Yields the keys of a field, one for each layer if it is stacked."""
    if "{}" not in row.key:
        yield row.key
        return
    for layer in range(config.num_layers):
        yield row.key.format(layer)


def _check(
    folder: Path, tensors: Mapping[str, StoredTensor], key: str, wanted: tuple[int, ...]
) -> None:
    untied = "; if the head is the embedding, set tie_word_embeddings to true"
    require(
        key in tensors,
        f"{folder} has no tensor {key}" + (untied if key == _HEAD else ""),
    )
    shape = tuple(tensors[key].get_shape())
    require(
        shape == wanted,
        f"{folder}: {key} has shape {shape}, and {CONFIG} says {wanted}; wanted the "
        f"{CONFIG} that belongs to these weights",
    )


def _check_tied(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Requires that the stored head of a tied Llama equals the embedding.

    transformers does not tie the two if they differ.
    """
    embedding, head = tensors[_EMBEDDING], tensors[_HEAD]
    num_rows, width = embedding.get_shape()
    _check(folder, tensors, _HEAD, (num_rows, width))
    for rows in row_ranges(num_rows, 8 * width):
        require(
            np.array_equal(embedding[rows], head[rows]),
            f"{folder}: {CONFIG} says tie_word_embeddings, and {_HEAD} holds other "
            f"values than {_EMBEDDING}; set tie_word_embeddings to false to keep both, "
            "as transformers reads them",
        )


def file_shape(row: TensorRow, config: LlamaConfig) -> tuple[int, ...]:
    """Returns the shape of a tensor in the file."""
    sizes: Mapping[str, int] = {
        "vocab": config.vocab,
        "width": config.width,
        "ffn": config.ffn,
        "heads*head": config.num_heads * config.head,
        "kv_heads*head": config.num_kv_heads * config.head,
    }
    return tuple(sizes[axis] for axis in row.axes)
