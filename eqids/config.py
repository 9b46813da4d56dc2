"""Every setting of EqIDs: frozen dataclasses that refuse impossible values.

Flags are built from these classes, checkpoints store them as JSON, and presets
are rows of data. A sentence under each field is its help text.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar


class UserError(ValueError):
    """A mistake the user can mend: one sentence, shown without a traceback.

    It names the file or field, the value that came and what was wanted. Doors
    print it and exit with code 2.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


@dataclass(frozen=True)
class RopeScaling:
    """Frequency scaling of rotary embeddings, with Hugging Face's field names.

    `linear` divides every frequency by `factor` (Chen et al. 2023, section 3.2);
    `llama3` does so for long wavelengths only (Llama 3.1's `rope_type`).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        require(
            self.rope_type in ("linear", "llama3"),
            f"rope_type is {self.rope_type!r}, wanted 'linear' or 'llama3'",
        )
        require(self.factor >= 1, f"rope factor is {self.factor}, wanted 1 or more")


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama (any Hugging Face `LlamaForCausalLM`)."""

    width: int
    """Size of the residual stream (`hidden_size`)."""
    num_layers: int
    """Number of blocks (`num_hidden_layers`)."""
    num_heads: int
    """Query heads (`num_attention_heads`)."""
    num_kv_heads: int
    """Key and value heads (`num_key_value_heads`)."""
    head: int
    """Size of one head (`head_dim`)."""
    ffn: int
    """Size of the feed-forward layer (`intermediate_size`)."""
    vocab: int
    """Number of word tokens (`vocab_size`)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies, or none."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    tied: bool = False
    """Whether the output words share the embedding's table."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                require(value >= 1, f"{field.name} is {value}, wanted 1 or more")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads is {self.num_heads}, wanted a multiple of num_kv_heads "
            f"({self.num_kv_heads})",
        )
        require(
            self.head % 2 == 0,
            f"head is {self.head}, wanted an even number (rotary pairs)",
        )


_LLAMA3_VOCAB = 128_256
_LLAMA32_SCALING = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)

LLAMA_PRESETS: Mapping[str, LlamaConfig] = types.MappingProxyType(
    {
        "nano": LlamaConfig(64, 2, 2, 2, 32, 256, 256, tied=True),
        "smollm2-135m": LlamaConfig(
            576, 30, 9, 3, 64, 1536, 49_152, rope_theta=100_000.0, tied=True
        ),
        "1b": LlamaConfig(
            2048, 16, 32, 8, 64, 8192, _LLAMA3_VOCAB, 500_000.0, _LLAMA32_SCALING,
            tied=True,
        ),
        "3b": LlamaConfig(
            3072, 28, 24, 8, 128, 8192, _LLAMA3_VOCAB, 500_000.0, _LLAMA32_SCALING,
            tied=True,
        ),
        "8b": LlamaConfig(
            4096, 32, 32, 8, 128, 14_336, _LLAMA3_VOCAB, rope_theta=500_000.0
        ),
    }
)  # fmt: skip
"""Published sizes: SmolLM2-135M, Llama 3.2 1B and 3B, Llama 3 8B; `nano` is ours."""

LlamaSize = Literal["nano", "smollm2-135m", "1b", "3b", "8b"]


@dataclass(frozen=True)
class PrepareConfig:
    """What `python -m eqids.prepare` is told."""

    source: str = "ml-100k"
    """Where interactions come from: ml-100k, ml-1m, ml-20m (fetched; or
    ml-1m:PATH for a local zip or folder), csv:PATH, parquet:PATH, or
    recbole:PATH.inter."""
    data_dir: Path = Path("data/ml-100k")
    """The dataset folder to write; it must not exist yet, or be replaced with
    --overwrite."""
    user_column: str = "user_id"
    """Column of user ids (csv and parquet sources)."""
    item_column: str = "item_id"
    """Column of item ids (csv and parquet sources)."""
    time_column: str | None = "timestamp"
    """Column of times: numbers (seconds), or dates and timestamps; 'None' where
    rows already stand in order of time."""
    rating_column: str | None = None
    """Column of ratings, needed by --min_rating only."""
    items: Path | None = None
    """CSV or Parquet file of item titles, with the column --item_column."""
    title_column: str = "title"
    """Column of titles in --items."""
    min_rating: float | None = None
    """Drop interactions rated lower."""
    min_user_interactions: int = 1
    """Drop users with fewer interactions (repeated with the next until stable)."""
    min_item_interactions: int = 1
    """Drop items with fewer interactions."""
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    """leave_one_out: each user's last item is test, the one before validation.
    temporal: two global times, at 80% and 90% of the interactions."""
    clusters: Literal["interactions", "popularity", "random"] = "interactions"
    """What puts items into one cluster: being used by the same users (default),
    similar counts, or nothing (random, for comparison)."""
    num_clusters: int | None = None
    """Number of clusters; by default about the square root of the items."""
    vector_width: int = 64
    """Size of the item vectors (truncated SVD) that are clustered."""
    seed: int = 0
    """Seeds the SVD, the clustering and, where needed, the breaking of ties."""
    overwrite: bool = False
    """Replace an existing dataset folder."""

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "min_item_interactions", "vector_width"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")
        require(
            self.num_clusters is None or self.num_clusters >= 1,
            f"--num_clusters is {self.num_clusters}, wanted 1 or more",
        )
        require(
            self.min_rating is None or self.rating_column is not None
            or not self.source.startswith(("csv:", "parquet:")),
            "--min_rating needs --rating_column, the column that holds the ratings",
        )  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of everything around the Llama, and how it is trained from scratch."""

    llama: LlamaConfig
    """The Llama."""
    num_clusters: int
    """Clusters of the item table, empty ones included."""
    room: int
    """Places in a cluster."""
    item_width: int = 384
    """Size of an item's vector."""
    adapter: Literal["mlp", "linear"] = "mlp"
    """Two layers with GELU, or one matrix."""
    tied_items: bool = True
    """Whether the vectors that enter are those that are predicted."""
    num_gaps: int = 36
    """Buckets of the time between items (0 is unknown)."""
    dropout: float = 0.0
    """Share of activations dropped in training, on inputs and on each branch."""


@dataclass(frozen=True)
class Recipe:
    """What a run uses where its flags say nothing; one for each size and strategy."""

    num_steps: int
    batch_size: int
    seq_len: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    item_width: int
    dropout: float
    eval_every: int


NANO_RECIPE = Recipe(
    num_steps=600,
    batch_size=16,
    seq_len=200,
    learning_rate=2e-3,
    warmup_steps=50,
    weight_decay=0.01,
    item_width=64,
    dropout=0.3,
    eval_every=50,
)
"""Chosen on ML-100K's validation split (docs/quality.md)."""

PRETRAINED_RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        "heads": Recipe(5_000, 16, 64, 1e-4, 100, 0.01, 384, 0.0, 250),
        "all": Recipe(10_000, 8, 64, 5e-5, 500, 0.01, 384, 0.0, 500),
    }
)
"""Frozen Llama (`heads`) and fully trained (`all`)."""


@dataclass(frozen=True)
class TrainConfig:
    """What `python -m eqids.train` is told."""

    llama_size: LlamaSize = "nano"
    """Size of the Llama; nano starts from scratch, the others from --llama_path."""
    llama_path: Path | None = None
    """Folder of a pretrained Llama: config.json and safetensors, as on the hub."""
    from_scratch: bool = False
    """Start any size from random weights."""
    freeze_llama: bool = False
    """The same as --train heads."""
    train: Literal["heads", "all"] | None = None
    """heads: items, adapters and softmax learn, Llama is frozen (the default with
    --llama_path). all: everything learns (the default from scratch)."""
    data_dir: Path | None = None
    """Dataset folder; without it, ML-100K is prepared into data/ml-100k."""
    checkpoint_dir: Path | None = None
    """Where the run's checkpoints, metrics and result go; a run that is there already
    is resumed. By default runs/DATA-SIZE-STRATEGY-seedN."""
    load_checkpoint: Path | None = None
    """DIR/STEP of another run: start from its weights, with a new optimizer."""
    num_steps: int | None = None
    """Steps of the run, which the learning rate's schedule spans."""
    stop_at: int | None = None
    """Save and leave after this step; the same command goes on from there."""
    batch_size: int | None = None
    """Rows in a batch."""
    seq_len: int | None = None
    """Positions in a row; shorter histories share one, longer ones are cut."""
    learning_rate: float | None = None
    """Peak of the schedule: linear warmup, then a cosine down to 1% of the peak."""
    warmup_steps: int | None = None
    """Steps of the warmup."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    weight_decay: float | None = None
    """AdamW's decay of matrices; norms, biases and item tables never decay."""
    dropout: float | None = None
    """Share of activations dropped in training."""
    item_width: int | None = None
    """Size of an item's vector."""
    adapter: Literal["mlp", "linear"] = "mlp"
    """Two layers with GELU between items and Llama, or one matrix."""
    tied_items: bool = True
    """Use one table for items that enter and items that are predicted."""
    gap_dropout: float = 0.1
    """Share of training histories whose times are hidden."""
    shuffle_ties: bool = True
    """Draw a new order of the events that share a time, each epoch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of Llama's computation; auto is bfloat16 on a GPU and float32 elsewhere."""
    remat: bool = False
    """Recompute Llama's blocks in the backward pass: less memory, more time."""
    layout: Literal["data", "fsdp", "tensor"] = "data"
    """How arrays are split over the devices there are."""
    log_every: int = 10
    """Steps between lines of metrics."""
    eval_every: int | None = None
    """Steps between evaluations on the validation split."""
    save_every: int | None = None
    """Steps between checkpoints; by default after each evaluation."""
    keep: int = 3
    """Newest checkpoints kept; the best on validation is kept as well."""
    early_stop: int | None = None
    """Stop after this many evaluations without a better NDCG@10."""
    tensorboard: bool = False
    """Write event files for TensorBoard too."""
    seed: int = 0
    """Seeds weights, batches and dropout."""
    estimate_memory_only: bool = False
    """Compile the step, print what it needs of memory, and leave."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "stop_at", "batch_size", "seq_len", "item_width")
        counts += ("log_every", "eval_every", "save_every", "keep", "early_stop")
        for name in counts:
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"--{name} is {value}, wanted 1 or more"
            )
        for name in ("learning_rate", "grad_clip"):
            value = getattr(self, name)
            require(
                value is None or value > 0, f"--{name} is {value}, wanted more than 0"
            )
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            require(
                value is None or value >= 0, f"--{name} is {value}, wanted 0 or more"
            )
        for name in ("dropout", "gap_dropout"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value < 1,
                f"--{name} is {value}, wanted at least 0 and less than 1",
            )
        require(
            not (self.freeze_llama and self.train == "all"),
            "--freeze_llama and --train all contradict each other, wanted one of them",
        )


Config = TypeVar("Config")


def to_json(config: Any) -> Any:
    """A config as JSON values: dataclasses as objects, paths as strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = dataclasses.fields(config)
        return {f.name: to_json(getattr(config, f.name)) for f in fields}
    return str(config) if isinstance(config, Path) else config


def from_json(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """The inverse of `to_json`.

    Args:
        kind: the dataclass to build.
        values: its fields.
        where: the file and object that `values` came from, for messages.

    Raises:
        UserError: at an unknown or a missing field.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        require(name in fields, f"{where}: unknown field {name!r}")
    hints = typing.get_type_hints(kind)
    given = {n: _from_json(hints[n], v, f"{where}.{n}") for n, v in values.items()}
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        require(name in given or optional, f"{where}: no field {name!r}")
    return kind(**given)


def _from_json(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_json(option, value, where)  # type: ignore[arg-type]
        if option is Path and isinstance(value, str):
            return Path(value)
    return value
