"""What a run is told, and what it does where it is told nothing."""

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config.distributed import ProcessesConfig
from eqids.config.errors import require
from eqids.config.hardware import HardwareName
from eqids.config.model import (
    LORA_TARGETS,
    Adapter,
    LlamaSize,
    LoraConfig,
    LoraTarget,
)
from eqids.config.negation import on_unless

Strategy = Literal["heads", "lora", "all"]
"""What trains: all but Llama; that and low-rank changes of Llama; or everything."""


InitItems = Literal["interactions", "text", "random"]
"""Where item vectors start."""


ItemOptimizer = Literal["auto", "dense", "lazy_adam", "adagrad"]
"""What moves item tables: dense AdamW, or what touches a batch's clusters only."""


Schedule = Literal["cosine", "linear", "constant"]
"""How the learning rate goes on after its warmup."""


@dataclass(frozen=True)
class Recipe:
    """What a run uses where its flags say nothing; one for each size and strategy."""

    num_steps: int
    """Steps of the run, which the schedule spans."""
    batch_size: int
    """Rows in a batch."""
    seq_len: int
    """Positions in a row."""
    learning_rate: float
    """Peak of the schedule."""
    warmup_steps: int
    """Steps of the linear warmup."""
    weight_decay: float
    """AdamW's decay of matrices."""
    item_width: int
    """Size of an item's vector."""
    adapter: Adapter
    """Between items and Llama."""
    dropout: float
    """Share of activations dropped."""
    eval_every: int
    """Steps between evaluations."""


NANO_RECIPE = Recipe(
    num_steps=900,
    batch_size=64,
    seq_len=50,
    learning_rate=2e-3,
    warmup_steps=50,
    weight_decay=0.01,
    item_width=64,
    adapter="linear",
    dropout=0.2,
    eval_every=100,
)
"""Chosen on ML-100K's validation split (docs/quality.md)."""

PRETRAINED_RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        "heads": Recipe(5_000, 16, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "lora": Recipe(5_000, 8, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "all": Recipe(10_000, 8, 64, 5e-5, 500, 0.01, 384, "mlp", 0.0, 500),
    }
)
"""Frozen Llama (`heads`), changed a little (`lora`) and fully trained (`all`).

LoRA bears a higher rate than full training does (Hu et al. 2021 use 2e-4), so that
Llama's changes and the heads share theirs; but it keeps the activations of full
training: hence its small batch.
"""


@dataclass(frozen=True)
class TrainConfig:
    """What `python -m eqids.train` is told."""

    llama_size: LlamaSize = "nano"
    """Size of the Llama; nano starts from scratch, the others from --llama_path, or
    from the Hugging Face hub (gated ones want HF_TOKEN, or `hf auth login`)."""
    llama_path: Path | None = None
    """Folder of a pretrained Llama: config.json and safetensors, as on the hub."""
    from_scratch: bool = False
    """Start any size from random weights."""
    freeze_llama: bool = False
    """The same as --train heads."""
    train: Strategy | None = None
    """heads: items, adapters and softmax learn, Llama is frozen (the default of
    pretrained ones). lora: low-rank changes of the frozen Llama learn too. all:
    everything learns (the default from scratch)."""
    lora_rank: int = 16
    """Inner size of LoRA's changes, with --train lora."""
    lora_alpha: float = 32.0
    """LoRA's changes are multiplied by this over their rank."""
    lora_targets: tuple[LoraTarget, ...] = LORA_TARGETS
    """Llama's matrices that LoRA changes, of attention (q k v o) and feed-forward
    (gate up down); by default all of them."""
    data_dir: Path | None = None
    """Dataset folder; without it, ML-100K is prepared into data/ml-100k."""
    checkpoint_dir: Path | None = None
    """Where the run's checkpoints, metrics and result go; a run that is there already
    is resumed. By default runs/DATA-SIZE-STRATEGY-seedN."""
    fresh: bool = False
    """Start a new run for certain: refuse a --checkpoint_dir that holds anything."""
    load_checkpoint: Path | None = None
    """DIR/STEP of another run: start from its weights, with a new optimizer. The flags
    that shape the model and what it reads (Llama, dataset, prompt, texts, sizes, dtype)
    are taken over from it, where this command does not give them."""
    init_from: Path | None = None
    """A folder that python -m convert eqids-to-hf wrote: start from its Llama, and from
    its items, adapters and softmax, with a new optimizer. Flags are taken over from it
    as from --load_checkpoint."""
    num_steps: int | None = None
    """Steps of the run, which the learning rate's schedule spans."""
    stop_at: int | None = None
    """Save and leave after this step; the same command goes on from there."""
    batch_size: int | None = None
    """Rows in a batch, of which a step takes one."""
    accumulate: int = 1
    """Parts of a batch that a step computes one after the other, for less memory; the
    gradient is that of the whole batch."""
    prompt: str | None = None
    """Words that every history opens with, for the Llama; plain text, in which
    <|im_start|> is no special token."""
    text_tokens_per_item: int = 0
    """Words of an item's text that follow it, at most; 0 is none."""
    tokenizer: Path | None = None
    """The tokenizer.json that splits texts into words, by default that of
    --llama_path."""
    seq_len: int | None = None
    """Positions in a row; shorter histories share one, longer ones are cut. With words
    the default is four times as long."""
    learning_rate: float | None = None
    """Peak of the schedule."""
    llama_learning_rate: float | None = None
    """Peak for Llama and its low-rank changes; by default --learning_rate, which then
    is for items, adapters and softmax."""
    schedule: Schedule = "cosine"
    """After a linear warmup the rate falls as a cosine, or a line, to 1% of its peak,
    or stays."""
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
    adapter: Adapter | None = None
    """Between items and Llama: two layers with GELU (mlp), or one matrix."""
    tied_items: bool = on_unless(
        "Use two tables: one for items that enter, one for items that are predicted."
    )
    """Use one table for items that enter and items that are predicted."""
    init_items: InitItems = "interactions"
    """Item vectors start from a truncated SVD of who used what in training
    (interactions; of other vectors, if the dataset's clusters were made of others);
    from what a pretrained Llama makes of their texts (text: items without a training
    event stay out of training, and stand where their texts place them among the
    others); or at random."""
    item_optimizer: ItemOptimizer = "auto"
    """dense: AdamW on the whole catalog, every step. lazy_adam: the same moments, but
    only clusters that a batch touches move. adagrad: one number of state an item.
    auto: lazy_adam where a batch touches less than half of the clusters."""
    gap_dropout: float = 0.1
    """Share of training histories whose times are hidden."""
    shuffle_ties: bool = on_unless(
        "Keep the dataset's order of the events that share a time, in every epoch."
    )
    """Draw a new order of the events that share a time, each epoch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of Llama's computation; auto is bfloat16 on a GPU and float32 elsewhere. On a
    CPU, training in bfloat16 means frozen weights and products with them."""
    remat: bool = False
    """Recompute Llama's blocks in the backward pass: less memory, more time."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """XLA's products, or cuDNN's fused kernel (GPUs, bfloat16); auto is cudnn where
    that can be."""
    layout: str = "data"
    """How the devices there are share the work: the batch only (data), the weights
    too (fsdp), heads and feed-forward as well (tensor), a mesh DATAxFSDPxTENSOR such
    as 2x4x1, a named layout (python -m sharding list), or one device and no mesh
    (none)."""
    log_every: int = 50
    """Steps between lines of metrics."""
    eval_every: int | None = None
    """Steps between evaluations on the validation split."""
    eval_users: int | None = None
    """Evaluate this many users only, the same ones each time; by default all."""
    save_every: int | None = None
    """Steps between checkpoints, by default --eval_every; a better evaluation and the
    last step are saved in any case."""
    save_minutes: float | None = None
    """Minutes after which a checkpoint is due, whatever the step."""
    save_blocking: bool = False
    """Let steps wait until a checkpoint is on the disk. By default it is copied into
    host memory, which takes as much of that, and written beside the next steps."""
    keep: int = 3
    """Newest checkpoints kept; the best on validation is kept as well."""
    keep_every: int | None = None
    """Checkpoints of steps that this divides are kept too."""
    early_stop: int | None = None
    """Stop after this many evaluations without a better NDCG@10."""
    tensorboard: bool = False
    """Write event files for TensorBoard too."""
    seed: int = 0
    """Seeds weights, batches and dropout."""
    estimate_memory_only: bool = False
    """Print what a step needs of a device's memory, by closed form and compiled, and
    leave."""
    hardware: HardwareName | None = None
    """With --estimate_memory_only: answer for this hardware instead of what is there
    (compiled too with eqids[gpu-compile])."""
    processes: ProcessesConfig = ProcessesConfig()
    """How the processes of a run find one another."""

    def __post_init__(self) -> None:
        counts = "num_steps stop_at batch_size seq_len item_width log_every eval_every "
        for name in (
            counts + "eval_users save_every keep keep_every early_stop lora_rank"
        ).split():
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"--{name} is {value}, wanted 1 or more"
            )
        rates = ("learning_rate", "llama_learning_rate", "grad_clip", "lora_alpha")
        for name in (*rates, "save_minutes"):
            value = getattr(self, name)
            require(
                value is None or value > 0, f"--{name} is {value}, wanted more than 0"
            )
        for name in (*rates, "save_minutes", "weight_decay"):
            value = getattr(self, name)
            require(
                value is None or math.isfinite(value),
                f"--{name} is {value}, wanted a finite number",
            )
        for name in ("warmup_steps", "weight_decay", "text_tokens_per_item"):
            value = getattr(self, name)
            require(
                value is None or value >= 0, f"--{name} is {value}, wanted 0 or more"
            )
        require(0 <= self.seed < 2**32, f"--seed is {self.seed}, wanted 0 to 2**32 - 1")
        for name in ("dropout", "gap_dropout"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value < 1,
                f"--{name} is {value}, wanted at least 0 and less than 1",
            )
        require(
            self.hardware is None or self.estimate_memory_only,
            f"--hardware {self.hardware} is for --estimate_memory_only; a run takes "
            "the devices that are there",
        )
        require(
            not self.freeze_llama or self.train in (None, "heads"),
            f"--freeze_llama and --train {self.train} contradict each other, wanted "
            "one of them",
        )
        require(
            self.tokenizer is None
            or self.reads_text
            or self.init_items == "text"
            or self.starts_from is not None,
            f"--tokenizer {self.tokenizer} is for words beside items, wanted "
            "--text_tokens_per_item or --prompt too",
        )
        require(
            self.init_from is None or same_path(self.llama_path, self.init_from),
            f"--init_from {self.init_from} has a Llama of its own, wanted no "
            "--llama_path",
        )
        require(
            self.init_from is None or self.load_checkpoint is None,
            f"--init_from {self.init_from} and --load_checkpoint "
            f"{self.load_checkpoint} contradict each other, wanted one of them",
        )
        targets = self.lora_targets
        require(
            0 < len(targets) == len(set(targets)),
            f"--lora_targets is {' '.join(targets)!r}, wanted at least one of "
            f"{' '.join(LORA_TARGETS)}, each once",
        )

    @property
    def starts_from(self) -> Path | None:
        """The checkpoint or the folder of a pair whose weights a new run takes."""
        return self.load_checkpoint or self.init_from

    @property
    def reads_text(self) -> bool:
        """Whether there are words beside the items."""
        return bool(self.prompt) or self.text_tokens_per_item > 0

    @property
    def lora(self) -> LoraConfig:
        """LoRA's changes, where they are trained."""
        return LoraConfig(self.lora_rank, self.lora_alpha, self.lora_targets)


def same_path(one: Path | None, other: Path) -> bool:
    """Returns whether two paths lead to one place, or the first is not given."""
    return one is None or one.resolve() == other.resolve()


@dataclass(frozen=True)
class WordsConfig:
    """The words of a run, by their hashes."""

    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    tokens: str
    """SHA-256 of the tokens of the prompt and of every item."""


@dataclass(frozen=True)
class RunConfig:
    """What a run does: its flags, with every gap filled."""

    flags: TrainConfig
    """What the user asked for."""
    recipe: Recipe
    """The recipe of its size and strategy, with the user's changes."""
    strategy: Strategy
    """What trains."""
    dtype: Literal["float32", "bfloat16"]
    """Of Llama's computation."""
    stop_at: int
    """Last step of this process."""
    save_every: int
    """Steps between checkpoints."""
    data_dir: Path
    """The dataset folder."""
    checkpoint_dir: Path
    """The run's folder."""
    tokens: WordsConfig | None = None
    """Words beside the items, or none."""
