"""The flags of the commands of `python -m convert`."""

from dataclasses import dataclass
from pathlib import Path

from eqids.config.bounds import ABOVE_ZERO, ONE_OR_MORE, check_flags
from eqids.config.choices import FloatName
from eqids.config.errors import require


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
    merged, with items, adapters and softmax in eqids.safetensors and eqids.json."""

    dtype: FloatName | None = None
    """Dtype of Llama's tensors; by default the folder's if Llama was frozen, otherwise
    float32."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""


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
    GPU and TPU: StableHLO, weights, items, a manifest, loader.py (docs/stablehlo.md).

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
    Parquet and safetensors."""

    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
