"""The flags of the commands of `python -m convert`."""

import re
from dataclasses import dataclass
from pathlib import Path

from eqids.config.bounds import ABOVE_ZERO, ONE_OR_MORE, ZERO_OR_MORE, check_flags
from eqids.config.choices import FloatName
from eqids.config.errors import require
from eqids.config.flag_fields import on_unless

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""An identifier of a licence."""


@dataclass(frozen=True)
class InspectConfig:
    """Print what a file or folder is: safetensors, a Hugging Face folder, GGUF, a tree
    of Orbax, a checkpoint, a run or a dataset."""

    path: Path
    """The file or folder to inspect."""
    json: Path | None = None
    """Write the answer to this JSON file too, every tensor in a row of its own."""


@dataclass(frozen=True)
class ConversionConfig:
    """The flags of every command that writes a folder."""

    input: Path
    """The file or folder to convert."""
    output: Path
    """The folder to write, which must not exist. It appears when all of it is written
    and read back."""


@dataclass(frozen=True)
class LlamaFolderConfig(ConversionConfig):
    """The flags of every command that writes a Llama for Hugging Face."""

    max_shard_gb: float = 5.0
    """Start a new safetensors file after this many gigabytes (of 10**9 bytes)."""

    def __post_init__(self) -> None:
        check_flags(self, "max_shard_gb", ABOVE_ZERO)

    @property
    def max_shard_bytes(self) -> int:
        """Largest number of bytes in a file that holds more than one tensor."""
        return int(self.max_shard_gb * 1e9)


@dataclass(frozen=True)
class GgufToHfConfig(LlamaFolderConfig):
    """Turn a GGUF file of a Llama into a Hugging Face folder, tokenizer included."""

    dtype: FloatName = "float32"
    """Dtype of the tensors. float32 holds every stored type without loss; the 16-bit
    types do not (a 4-bit weight is a product of two numbers)."""


@dataclass(frozen=True)
class HfToHfConfig(LlamaFolderConfig):
    """Write a Hugging Face folder again: another dtype, size of files, fewer layers."""

    dtype: FloatName | None = None
    """Dtype of the tensors; by default each keeps its own, to the bit."""
    num_layers: int | None = None
    """Keep only so many layers, the first ones: a smaller Llama to read histories. By
    default all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "num_layers", ONE_OR_MORE)


@dataclass(frozen=True)
class EqidsToHfConfig(LlamaFolderConfig):
    """Turn a checkpoint into a Hugging Face folder of its Llama, low-rank changes
    merged, with items, adapters and softmax in eqids.safetensors and eqids.json, and a
    model card in README.md."""

    dtype: FloatName | None = None
    """Dtype of Llama's tensors; by default the folder's if Llama was frozen, otherwise
    float32."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""
    license: str | None = None
    """Licence of the model, as the hub spells it (apache-2.0, llama3.2, other), for the
    card; by default unknown, because nothing is inherited from the Llama."""
    push_to: str | None = None
    """Also push the folder to this repository of the Hugging Face hub, ORG/NAME."""
    private: bool = False
    """With --push_to: create a private repository; refuse one that is public."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.license is None or _LICENSE.fullmatch(self.license) is not None,
            f"--license is {self.license!r}, wanted an identifier such as apache-2.0, "
            "see https://huggingface.co/docs/hub/repositories-licenses",
        )
        require(
            self.push_to is not None or not self.private,
            "--private is about the repository of --push_to, wanted both or neither",
        )


@dataclass(frozen=True)
class PushConfig:
    """Push a folder of eqids-to-hf to the Hugging Face hub, in one commit."""

    folder: Path
    """The folder that eqids-to-hf wrote."""
    repository: str
    """The repository, ORG/NAME, which is created if it does not exist."""
    private: bool = False
    """Create a private repository; refuse one that is public."""


@dataclass(frozen=True)
class ProgramsConfig(ConversionConfig):
    """The flags of every command that writes a model to run without EqIDs."""

    overwrite: bool = False
    """Replace OUTPUT if it is an export, in one step, when the new one is complete."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""
    tokenizer: Path | None = None
    """tokenizer.json of the items' texts, if it is no longer where the run found it."""


@dataclass(frozen=True)
class EqidsToStablehloConfig(ProgramsConfig):
    """Turn a model into programs that recommend with jax alone, without EqIDs, on CPU,
    GPU and TPU: StableHLO, weights, items, manifest and loader.py (docs/stablehlo.md).

    INPUT is a run, a checkpoint or a folder of eqids-to-hf. Every program has fixed
    shapes: some rows, some positions of history, and k.
    """

    k: int = 10
    """Number of items that the programs return; less if the catalog has fewer."""
    rows: tuple[int, ...] = (1, 64)
    """Numbers of histories that a program reads at a time."""
    lengths: tuple[int, ...] = ()
    """Positions of a history that a program reads: one for an item, and more for its
    text. By default those that `recommend` uses: 16, 32 and so on up to the --seq_len
    of the run, which is always among them, so that every history can be read."""
    jaxlib_released: str | None = None
    """Date (YYYY-MM-DD) when the installed jaxlib was released, from which its promise
    to read the programs is counted; needed for a jaxlib that EqIDs does not know."""

    def __post_init__(self) -> None:
        check_flags(self, "k rows", ONE_OR_MORE)
        if self.lengths:
            check_flags(self, "lengths", ONE_OR_MORE)


@dataclass(frozen=True)
class EqidsToOnnxConfig(ProgramsConfig):
    """Turn a model into a graph that recommends with onnxruntime, TensorRT or Triton,
    without EqIDs: ONNX, weights, items, a manifest and onnx_loader.py (docs/onnx.md).

    INPUT is a run, a checkpoint or a folder of eqids-to-hf. One graph reads any number
    of histories of any length up to the --seq_len of the run.
    """

    k: int = 10
    """Number of items that the graph returns; less if the catalog has fewer."""
    verify: int = 100
    """Compare the answers of onnxruntime with those of EqIDs on so many histories of
    the dataset, spread over its users, before anything is written under OUTPUT; 0
    compares nothing, and then the model is never in memory as a whole."""
    allowed: bool = on_unless("Leave out the input `allowed`, a mask of the slots that "
                              "may be returned: requests are smaller by a byte for "
                              "each slot.")  # fmt: skip
    """Give the graph the input `allowed`."""
    triton: bool = False
    """Lay OUTPUT out as a model repository of Triton, with one model named eqids."""
    tensorrt: bool = False
    """Have Triton run the graph by TensorRT, which compiles it for the GPU first."""
    rows: int = 64
    """Most histories of a batch of Triton, and of the shapes for TensorRT."""

    def __post_init__(self) -> None:
        check_flags(self, "k rows", ONE_OR_MORE)
        check_flags(self, "verify", ZERO_OR_MORE)
        require(
            self.triton or not self.tensorrt,
            "--tensorrt is given without --triton, wanted both; without Triton, "
            "trtexec compiles the graph (docs/onnx.md)",
        )
        require(
            not self.tensorrt or self.k < 3840,
            f"--k is {self.k} with --tensorrt, wanted less than 3840, TensorRT's limit",
        )


@dataclass(frozen=True)
class EqidsToOrbaxConfig(ConversionConfig):
    """Turn a checkpoint into a tree that Orbax's StandardCheckpointer restores, for
    code in Flax or plain JAX; orbax-to-eqids turns it back (docs/orbax.md)."""

    optimizer: bool = False
    """Include the step and the optimizer's state, so that training can go on when the
    tree is turned back."""
    with_llama: bool = False
    """Include a frozen Llama, low-rank changes merged, under `llama` by Hugging Face's
    names. Otherwise a frozen Llama is not in the tree, as in checkpoints."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""


@dataclass(frozen=True)
class OrbaxToEqidsConfig(ConversionConfig):
    """Turn a tree of Orbax into a checkpoint: what eqids-to-orbax wrote, or a model in
    Flax of items, clusters, two adapters and a Llama (docs/orbax.md).

    The flags are for the latter.
    """

    data_dir: Path | None = None
    """The dataset folder, with the clusters that the model was trained with."""
    items: Path | None = None
    """CSV or Parquet file with a row for each row of the item embeddings, in their
    order: the item's id, and in the column `cluster` its row of the cluster embeddings.
    A row without an id is left out."""
    item_column: str = "item_id"
    """Column of item ids in --items."""
    llama_path: Path | None = None
    """Folder of the Llama: of its weights if the tree has none, otherwise of its
    config.json."""
    llama_config: Path | None = None
    """config.json of the Llama in the tree, instead of --llama_path."""
    seq_len: int | None = None
    """Positions of a history that the model reads; by default as for a new run."""
    rename: tuple[str, ...] = ()
    """Names of the tree and names of docs/orbax.md, THEIRS=OURS, such as encoder=llama:
    a leaf or the beginning of several, without `params/`. THEIRS= drops it."""

    def __post_init__(self) -> None:
        check_flags(self, "seq_len", ONE_OR_MORE)
        for pair in self.rename:
            theirs, equals, _ = pair.partition("=")
            require(
                bool(theirs and equals), f"--rename is {pair!r}, wanted THEIRS=OURS"
            )


@dataclass(frozen=True)
class ItemsConfig(ConversionConfig):
    """Write the vectors of a checkpoint's items and clusters, with the items' ids, as
    Parquet, which vector databases load, and safetensors (docs/vectors.md)."""

    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    faiss: bool = False
    """Also write items.faiss, a FAISS index of the augmented vectors, which finds the
    items of the largest logits; needs eqids[faiss]."""
