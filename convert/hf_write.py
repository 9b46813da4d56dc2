"""A Llama as a Hugging Face folder: config, shards and their index, companions."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from convert.diagnosis import ARCHITECTURE, CONFIG, INDEX, SINGLE
from convert.hf_config import read_config
from convert.hf_files import check_inside, tensors
from convert.hf_llama import check_llama
from convert.json_file import read_object
from convert.names import Tensor, path_of, tensors_of
from convert.outputs import DTYPES, Advance, NewFolder, Weight, new_folder, row_ranges
from eqids.config import LlamaConfig, check_content, require
from eqids.model import Llama

COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json", "LICENSE", "LICENSE.txt",
    "USE_POLICY.md", "README.md",
)  # fmt: skip
"""Files beside the weights that go where they go."""
_FREE_TEXTS = ("LICENSE", "USE_POLICY", "README", "chat_template")
"""Those that may begin with anything."""

_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor",
         "original_max_position_embeddings")  # fmt: skip
_DTYPE = ("torch_dtype", "dtype")
"""Fields of a config.json that say the same."""

HEAD = "lm_head.weight"
"""The head for words, of a Llama that has one of its own."""

Read = Callable[[str, int | None], np.ndarray]
"""Returns an array of a Llama by its path (blocks/wq), or one layer of it."""


def hf_to_hf(
    folder: Path,
    output: Path,
    *,
    dtype: np.dtype | None = None,
    max_shard_bytes: int,
    advance: Advance = lambda done, total: None,
) -> dict[str, str]:
    """Writes a folder anew, in another dtype or in files of another size.

    Args:
        folder: a Llama's.
        output: the folder to write.
        dtype: what tensors are cast to; by default each keeps its own, to the bit.
        max_shard_bytes: of a safetensors file, where there is more than one.
        advance: hears of bytes as they are written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the folder holds no whole Llama, `output` is there already or
            cannot be written, or a value does not fit `dtype`.
    """
    check_llama(folder)
    with tensors(folder) as found, new_folder(output, advance) as new:
        weights = {key: of_slice(found[key]) for key in found}
        config = base_config(folder, None if dtype is None else str(dtype))
        write_llama(new, weights, config, dtype, max_shard_bytes)
        copy_companions(new, folder)
    return new.digests


def save_llama(
    llama: Llama,
    output: Path,
    *,
    dtype: np.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> dict[str, str]:
    """Writes a Llama in memory as a Hugging Face folder; see `hf_to_hf`.

    Low-rank changes are merged. There is no tokenizer in a Llama, so none is written.

    Args:
        llama: on the devices of this process.
        output: the folder to write.
        dtype: what tensors are cast to; by default each keeps its own.
        max_shard_bytes: of a safetensors file, where there is more than one.
    """
    read = arrays_of(llama)
    stored = np.dtype(llama.embedding.dtype)
    weights = llama_weights(llama.config, stored, read)
    if llama.blocks.lora is not None:
        scales = {name: one.scale for name, one in llama.blocks.lora.items()}
        weights = merged(weights, llama.config, scales, read)
    with new_folder(output) as new:
        config = hf_config(llama.config, str(dtype or stored))
        write_llama(new, weights, config, dtype, max_shard_bytes)
    return new.digests


def arrays_of(llama: Llama) -> Read:
    """Returns what reads the arrays of a Llama in memory."""
    leaves = jax.tree_util.tree_leaves_with_path(llama)
    arrays = {path_of(route): leaf for route, leaf in leaves}

    def read(path: str, layer: int | None) -> np.ndarray:
        return np.asarray(arrays[path] if layer is None else arrays[path][layer])

    return read


def write_llama(
    new: NewFolder,
    weights: Mapping[str, Weight],
    config: Mapping[str, Any],
    dtype: np.dtype | None,
    max_shard_bytes: int,
) -> None:
    """Writes config.json, the safetensors files and, of several, their index.

    Args:
        new: the folder.
        weights: tensors by their names of Hugging Face.
        config: the content of config.json.
        dtype: what tensors are cast to; by default each keeps its own.
        max_shard_bytes: of a file, where there is more than one.

    Raises:
        UserError: these tensors are not those of the config.
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
    """Tensors by file, in their order; one that is larger has a file of its own."""
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


def copy_companions(new: NewFolder, folder: Path) -> None:
    """Copies what lies beside the weights of a folder: the tokenizer, a licence."""
    for name in COMPANIONS:
        path = folder / name
        if path.is_symlink() or path.is_file():
            if not name.startswith(_FREE_TEXTS):
                check_content(path)
            check_inside(folder, path)
            if path.is_file():
                new.write(name, path.read_bytes())


def base_config(folder: Path, dtype: str | None) -> dict[str, Any]:
    """Returns the content of a folder's config.json, everything said once.

    What a config.json can say in two ways is said as `hf_config` does, so that any
    version of transformers reads the same; other fields stay as they are.

    Args:
        folder: of a Llama.
        dtype: of the tensors; by default what the folder says.
    """
    values = read_object(folder / CONFIG)
    # Where both are there, transformers reads `dtype`.
    said = dtype or values.get("dtype") or values.get("torch_dtype")
    ours = hf_config(read_config(folder), said)
    out = {key: one for key, one in values.items() if key not in _ROPE + _DTYPE}
    if any(key in values for key in _ROPE):
        out |= {key: ours[key] for key in ("rope_theta", "rope_scaling")}
    return out if said is None else out | {"torch_dtype": said}


def hf_config(config: LlamaConfig, dtype: str | None, **more: Any) -> dict[str, Any]:
    """Returns the content of a config.json, which any version of transformers reads.

    Everything is said once: rotary settings as `rope_theta` and `rope_scaling`, the
    dtype as `torch_dtype`.

    Args:
        config: sizes.
        dtype: of the tensors, or none to say nothing of it.
        more: fields that the sizes do not tell, such as `eos_token_id`.
    """
    rope = None
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope = {"rope_type": scaling.rope_type, "factor": scaling.factor}
        if scaling.rope_type == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": (
                    scaling.original_max_position_embeddings
                ),
            }
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        **more,
    }


def llama_tensors(config: LlamaConfig) -> dict[str, tuple[str, Tensor]]:
    """Returns the tensors of a Llama by name, each with the path of its array."""
    abstract = eqx.filter_eval_shape(Llama, config, key=jax.random.key(0))
    found = {}
    for route, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = path_of(route)
        for tensor in tensors_of(f"llama/{path}", leaf.shape):
            found[tensor.name] = (path, tensor)
    return found


def llama_weights(
    config: LlamaConfig, dtype: np.dtype, read: Read
) -> dict[str, Weight]:
    """Returns the tensors of a Llama, each read from our arrays when it is written."""

    def weight(path: str, tensor: Tensor) -> Weight:
        def parts() -> Iterator[np.ndarray]:
            yield read(path, tensor.layer)

        return Weight(tensor.shape, dtype, parts)

    return {key: weight(*found) for key, found in llama_tensors(config).items()}


def merged(
    weights: Mapping[str, Weight],
    config: LlamaConfig,
    scales: Mapping[str, float],
    read: Read,
) -> dict[str, Weight]:
    """Returns tensors with low-rank changes added: `W + scale * B A`, in float32.

    Args:
        weights: the tensors of a Llama.
        config: its sizes.
        scales: of the changes, by the field of `LlamaBlock` that they change.
        read: returns a change's `blocks/lora/FIELD/a` [rank, *inputs] and `…/b`
            [*outputs, rank] of a layer.
    """
    float32 = np.dtype(np.float32)

    def changed(weight: Weight, field: str, layer: int | None) -> Weight:
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
            out[key] = changed(weights[key], field, tensor.layer)
    return out


def of_slice(tensor: Any) -> Weight:
    """Returns a slice of safetensors as a tensor to write, a few rows at a time."""
    shape, name = tuple(tensor.get_shape()), tensor.get_dtype()
    require(
        name in DTYPES, f"a tensor has dtype {name}, wanted one of {sorted(DTYPES)}"
    )
    dtype = DTYPES[name]

    def parts() -> Iterator[np.ndarray]:
        row = int(np.prod(shape[1:])) * dtype.itemsize
        for rows in row_ranges(shape[0], row):
            yield tensor[rows]

    return Weight(shape, dtype, parts)
