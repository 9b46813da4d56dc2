"""Count how many bytes of weights a program reads from safetensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import jax
import numpy as np

import convert.hf_llama
from convert.hf_files import tensors
from convert.outputs import DTYPES
from convert.stored_tensor import StoredTensor
from eqids.model import Llama

FIELDS = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w_gate": "mlp.gate_proj",
    "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}


class Reads:
    """Bytes read so far, and the most that were read at once."""

    total = 0
    largest = 0


def count_reads() -> Reads:
    """Counts every read of weights from now on: by safetensors, and of whole rows."""
    reads, lock = Reads(), Lock()

    def add(num_bytes: int) -> None:
        with lock:  # several threads read
            reads.total += num_bytes
            reads.largest = max(reads.largest, num_bytes)

    class Counted(StoredTensor):
        def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
            part = super().__getitem__(box)
            add(part.nbytes)
            return part

        def fill(self, rows: slice, out: np.ndarray) -> bool:
            itemsize = DTYPES[self.get_dtype()].itemsize
            assert self.num_values(rows) == out.size
            add(out.size * itemsize)
            return super().fill(rows, out)

    @contextmanager
    def counted(folder: Path) -> Iterator[Mapping[str, StoredTensor]]:
        with tensors(folder) as found:
            yield {key: Counted(**vars(one)) for key, one in found.items()}

    convert.hf_llama.tensors = counted
    return reads


def expected(foreign: Mapping[str, np.ndarray], llama: Llama) -> dict[str, np.ndarray]:
    """Returns the arrays of a Llama by field, from a folder's tensors, in NumPy."""
    arrays = {
        "embedding": foreign["model.embed_tokens.weight"],
        "norm": foreign["model.norm.weight"],
    }
    if "lm_head.weight" in foreign:
        arrays["lm_head"] = foreign["lm_head.weight"]
    for field, name in FIELDS.items():
        layers = range(llama.config.num_layers)
        stacked = [foreign[f"model.layers.{n}.{name}.weight"] for n in layers]
        shape = getattr(llama.blocks, field).shape
        arrays[field] = np.stack(stacked).reshape(shape)
    return arrays


def assert_parts(llama: Llama, foreign: Mapping[str, np.ndarray]) -> None:
    """Compares this process's shards of a Llama with a folder's tensors, to the bit."""
    wanted = expected(foreign, llama)
    leaves = jax.tree_util.tree_leaves_with_path(llama)
    assert len(leaves) == len(wanted)
    for path, leaf in leaves:
        whole = wanted[path[-1].name].astype(leaf.dtype)
        assert leaf.shape == whole.shape
        for shard in leaf.addressable_shards:
            ours, theirs = np.asarray(shard.data), whole[shard.index]
            assert ours.tobytes() == theirs.tobytes(), (path, shard.index)
