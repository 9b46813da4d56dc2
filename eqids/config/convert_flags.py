"""What the commands of `python -m convert` are told; fields are flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config.errors import require

FloatName = Literal["float32", "float16", "bfloat16"]
"""A dtype of weights in files."""


@dataclass(frozen=True)
class InspectConfig:
    """Say what a file or folder is: safetensors, a Hugging Face folder, GGUF, a
    checkpoint, a run or a dataset."""

    path: Path
    """The file or folder."""
    json: Path | None = None
    """Write the answer there too, every tensor in a row of its own."""


@dataclass(frozen=True)
class ConversionConfig:
    """What every command that writes a folder is told."""

    input: Path
    """What is converted."""
    output: Path
    """The folder to write, which must not be there yet; it appears when all of it is
    written and read back."""


@dataclass(frozen=True)
class LlamaFolderConfig(ConversionConfig):
    """What every command that writes a Llama for Hugging Face is told."""

    max_shard_gb: float = 5.0
    """Start a new safetensors file past so many gigabytes (of 10**9 bytes)."""

    def __post_init__(self) -> None:
        require(
            self.max_shard_gb > 0,
            f"--max_shard_gb is {self.max_shard_gb}, wanted more than 0",
        )

    @property
    def max_shard_bytes(self) -> int:
        """Bytes of tensors in a file, at most, where there is more than one."""
        return int(self.max_shard_gb * 1e9)


@dataclass(frozen=True)
class GgufToHfConfig(LlamaFolderConfig):
    """Turn a GGUF file of a Llama into a Hugging Face folder, tokenizer included."""

    dtype: FloatName = "float32"
    """Of the tensors; float32 holds what is stored in any type without loss, halves
    of it do not (a 4-bit weight is a product of two numbers)."""


@dataclass(frozen=True)
class HfToHfConfig(LlamaFolderConfig):
    """Write a Hugging Face folder anew: in another dtype, or files of another size."""

    dtype: FloatName | None = None
    """Of the tensors; by default each keeps its own, to the bit."""


@dataclass(frozen=True)
class EqidsToHfConfig(LlamaFolderConfig):
    """Turn a checkpoint into a Hugging Face folder of its Llama, low-rank changes
    merged, with items, adapters and softmax in eqids.safetensors and eqids.json."""

    dtype: FloatName | None = None
    """Of Llama's tensors; by default what they have: the folder's where Llama was
    frozen, else float32."""
    llama_path: Path | None = None
    """Where the frozen Llama is, if it is no longer where the run found it."""


@dataclass(frozen=True)
class ItemsConfig(ConversionConfig):
    """Write the vectors of a checkpoint's items and clusters, with the items' ids, as
    Parquet and safetensors."""

    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
