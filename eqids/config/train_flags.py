"""The flags of `python -m eqids.train`: a field each, with its group and its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config.bounds import (
    ABOVE_ZERO,
    FINITE,
    ONE_OR_MORE,
    SEED,
    SHARE,
    ZERO_OR_MORE,
    check_flags,
)
from eqids.config.choices import (
    HardwareName,
    InitItems,
    ItemOptimizer,
    Schedule,
    Strategy,
)
from eqids.config.distributed import ProcessesConfig
from eqids.config.errors import require
from eqids.config.flag_fields import grouped, on_unless
from eqids.config.model import (
    LORA_TARGETS,
    Adapter,
    LlamaSize,
    LoraConfig,
    LoraTarget,
)


@dataclass(frozen=True)
class TrainConfig:
    """The flags of `python -m eqids.train`."""

    llama_size: LlamaSize | None = grouped("model", None)
    """Size of the Llama. nano, micro, mini and small are trained from scratch; the
    weights of the others come from --llama_path, or from the Hugging Face hub (gated
    ones need HF_TOKEN, or `hf auth login`). By default one from scratch, chosen by the
    data."""
    llama_config: Path | None = grouped("model", None)
    """Train a Llama of other sizes from scratch: a config.json as on the hub, or a JSON
    object with the fields of eqids.config.LlamaConfig."""
    llama_path: Path | None = grouped("model", None)
    """Folder of a pretrained Llama, with config.json and safetensors as on the hub."""
    from_scratch: bool = grouped("model", False)
    """Start from random weights, whatever the size."""
    freeze_llama: bool = grouped("model", False)
    """The same as --train heads."""
    train: Strategy | None = grouped("model", None)
    """What trains. heads: items, adapters and softmax, with a frozen Llama (the default
    of pretrained ones). lora: low-rank changes of the frozen Llama too. all: everything
    (the default from scratch)."""
    lora_rank: int = grouped("model", 16)
    """Rank of LoRA's changes, with --train lora."""
    lora_alpha: float = grouped("model", 32.0)
    """Scale of LoRA's changes: they are multiplied by this over their rank."""
    lora_targets: tuple[LoraTarget, ...] = grouped("model", LORA_TARGETS)
    """Llama's matrices that LoRA changes: of attention (q k v o) and of feed-forward
    (gate up down). By default all of them."""
    item_width: int | None = grouped("model", None)
    """Size of an item's vector, text columns included."""
    text_features: bool | None = on_unless(
        "Give items no text columns. By default, where items have texts and there is a "
        "pretrained Llama, an item's vector has columns that do not train: whitened "
        "axes of the Llama's encodings of the texts.",
        "model",
        default=None,
    )
    """Give items text columns. By default they get them where they have texts and there
    is a pretrained Llama; a run that is given this flag fails without them."""
    text_llama_path: Path | None = grouped("model", None)
    """Folder of the pretrained Llama that encodes the texts for the text columns, by
    default --llama_path. The model may be another one, trained from scratch."""
    text_width: int | None = grouped("model", None)
    """Text columns of an item's vector, by default 128, or half of --item_width if that
    is less."""
    adapter: Adapter | None = grouped("model", None)
    """Adapters between items and Llama: two layers with GELU (mlp), one matrix
    (linear), or none (identity: items are as wide as Llama)."""
    skip: bool = on_unless(
        "Leave the vector of the last item out of the query: Llama alone makes it.",
        "model",
    )
    """Add the vector of the last item to the query, around the Llama."""
    tied_items: bool = on_unless(
        "Use two item tables: one for the input, one for the prediction.", "model"
    )
    """Use one item table for the input and for the prediction."""
    counts: bool = on_unless(
        "Predict by the model alone, not mixed with counts of what followed each item "
        "in training.",
        "model",
    )
    """Mix the model's predictions with counts of what followed each item in training;
    the weight of the counts is chosen on the validation split."""
    init_items: InitItems = grouped("model", "interactions")
    """What item vectors start from. interactions: a truncated SVD of which users used
    which items in training (or the vectors that the dataset's clusters were made of, if
    those are others). text: Llama's encodings of the items' texts; an item without a
    training event is then left out of training, and placed among the others by its
    text. random: random vectors."""
    data_dir: Path | None = grouped("data", None)
    """The dataset folder. Without it, ML-100K is prepared into data/ml-100k."""
    prompt: str | None = grouped("data", None)
    """Text for the Llama at the start of every history. It is plain text: <|im_start|>
    is no special token in it."""
    text_tokens_per_item: int = grouped("data", 0)
    """Largest number of tokens of an item's text that follow the item; 0 for no
    text."""
    tokenizer: Path | None = grouped("data", None)
    """The tokenizer.json that splits texts into tokens; by default the one of
    --llama_path."""
    request_time: bool = grouped("data", False)
    """Let the model know when the next item is requested, as the time since the last
    event. In training and evaluation that is the time of the target, so results are
    comparable only with those of other runs with --request_time; recommend then asks
    at a given time, by default now."""
    seq_len: int | None = grouped("data", None)
    """Positions in a row. Shorter histories share a row, longer ones are cut. With text
    the default is four times as long."""
    num_steps: int | None = grouped("optimisation", None)
    """Most steps of the run; the schedule of the learning rate spans them."""
    epochs: float | None = grouped("optimisation", None)
    """In place of --num_steps, passes over the training events."""
    max_minutes: float | None = grouped("optimisation", None)
    """End training after so many minutes, evaluations during training included: save,
    and report the best step as always. A resumed run goes on counting. With --schedule
    wsd the learning rate falls in the last fifth of this time."""
    stop_at: int | None = grouped("optimisation", None)
    """Save and stop after this step; the same command continues from there."""
    batch_size: int | None = grouped("optimisation", None)
    """Rows in a batch; each step trains on one batch."""
    accumulate: int = grouped("optimisation", 1)
    """Split each batch into this many parts, computed one after the other to save
    memory; the gradient is that of the whole batch."""
    learning_rate: float | None = grouped("optimisation", None)
    """Largest learning rate, reached after the warmup."""
    llama_learning_rate: float | None = grouped("optimisation", None)
    """Largest learning rate of Llama and of its low-rank changes. Then --learning_rate
    is for items, adapters and softmax. By default both are the same."""
    schedule: Schedule | None = grouped("optimisation", None)
    """How the learning rate goes on after its linear warmup: it falls as a cosine or as
    a line to 1% of its largest value, or stays constant. wsd (warmup-stable-decay)
    stays constant and falls as a line to 1% in the last fifth of the run. The fall
    begins earlier if --early_stop or --max_minutes says so: it then takes a quarter of
    the steps made so far, and the run ends with it."""
    warmup_steps: int | None = grouped("optimisation", None)
    """Steps in which the learning rate rises from 0."""
    grad_clip: float = grouped("optimisation", 1.0)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    weight_decay: float | None = grouped("optimisation", None)
    """AdamW's decay of matrices; norms, biases and item tables have none."""
    dropout: float | None = grouped("optimisation", None)
    """Share of activations dropped in training."""
    id_dropout: float = grouped("optimisation", 0.1)
    """Share of items whose learned columns are hidden in training, so that the model
    learns to use the text columns alone; without text columns it has no effect."""
    seed: int = grouped("optimisation", 0)
    """Seed of weights, batches and dropout."""
    checkpoint_dir: Path | None = grouped("checkpoints", None)
    """Folder of the run, for its checkpoints, metrics and result. A run that it holds
    already is resumed. By default runs/DATA-SIZE-STRATEGY-seedN."""
    fresh: bool = grouped("checkpoints", False)
    """Start a new run, and refuse a --checkpoint_dir that is not empty."""
    load_checkpoint: Path | None = grouped("checkpoints", None)
    """Start from the weights of another run's checkpoint, DIR/STEP, with a new
    optimizer. The flags of the model and of what it reads (Llama, dataset, prompt,
    texts, sizes, dtype) are taken over from that run unless they are given."""
    init_from: Path | None = grouped("checkpoints", None)
    """Start from a folder that python -m convert eqids-to-hf wrote: its Llama, items,
    adapters and softmax, with a new optimizer. Flags are taken over as with
    --load_checkpoint."""
    continue_from: Path | None = grouped("checkpoints", None)
    """Continue another run, with its weights and its optimizer, in a new folder: DIR
    (its best step) or DIR/STEP. The run may be finished, and --data_dir may hold newer
    data with the same catalog or a later version of it. All flags of how the model
    learns are taken over too, unless they are given."""
    more_steps: int | None = grouped("checkpoints", None)
    """With --continue_from: most further steps, by default 15% of those that a new run
    on the same data would make."""
    log_every: int = grouped("checkpoints", 50)
    """Steps between lines of metrics."""
    eval_every: int | None = grouped("checkpoints", None)
    """Steps between evaluations on the validation split."""
    eval_users: int | None = grouped("checkpoints", None)
    """Users in an evaluation during training, always the same ones; 0 for all. The
    result on the test split is on all users, see --test_users."""
    test_users: int | None = grouped("checkpoints", None)
    """Users in the result on the test split, by default all."""
    save_every: int | None = grouped("checkpoints", None)
    """Steps between checkpoints, by default --eval_every. A better evaluation and the
    last step are always saved."""
    keep: int = grouped("checkpoints", 3)
    """Number of newest checkpoints to keep; the best on validation is kept as well."""
    early_stop: int | None = grouped("checkpoints", None)
    """Stop after this many evaluations without a better NDCG@10; with --schedule wsd
    the learning rate falls first. 0 to train all steps."""
    result_split: Literal["test", "valid"] = grouped("checkpoints", "test")
    """Split that the best step is evaluated on at the end. valid leaves the test split
    unread, while settings are being chosen."""
    tensorboard: bool = grouped("checkpoints", False)
    """Write event files for TensorBoard too."""
    dtype: Literal["auto", "float32", "bfloat16"] = grouped("devices", "auto")
    """Compute dtype of Llama; auto is bfloat16 on a GPU and float32 elsewhere. On a
    CPU, bfloat16 applies to frozen weights and to products with them."""
    remat: bool = grouped("devices", False)
    """Recompute Llama's blocks in the backward pass: less memory, more time."""
    unroll_layers: bool = grouped("devices", False)
    """Compile Llama's blocks one by one instead of as a loop. A GPU then does not copy
    each block's weights before it uses them; compiling takes much longer."""
    layout: str = grouped("devices", "data")
    """How the devices share the work: the batch (data), the weights too (fsdp), heads
    and feed-forward as well (tensor), a mesh DATAxFSDPxTENSOR such as 2x4x1, a named
    layout (python -m sharding list), or one device without a mesh (none)."""
    estimate_memory_only: bool = grouped("devices", False)
    """Print the memory that a step needs on a device, by closed form and compiled, and
    exit."""
    hardware: HardwareName | None = grouped("devices", None)
    """With --estimate_memory_only: estimate for this hardware, not for this machine
    (compiled too if eqids[gpu-compile] is installed)."""
    item_optimizer: ItemOptimizer = grouped("expert", "auto")
    """Optimizer of the item tables. dense: AdamW on the whole catalog in every step.
    lazy_adam: Adam on the clusters that the batch uses. adagrad: Adagrad on these, with
    one number of state an item. auto: lazy_adam if a batch uses less than half of the
    clusters, otherwise dense."""
    gap_dropout: float = grouped("expert", 0.1)
    """Share of training histories whose times are hidden from the model."""
    shuffle_ties: bool = on_unless(
        "Keep events of the same time in the dataset's order, in every epoch.", "expert"
    )
    """Shuffle events of the same time anew in each epoch."""
    attention: Literal["auto", "xla", "cudnn"] = grouped("expert", "auto")
    """Attention by XLA's matrix products, or by cuDNN's fused kernel (GPUs, bfloat16);
    auto is cudnn wherever it works."""
    save_minutes: float | None = grouped("expert", None)
    """Save also after this many minutes without a checkpoint."""
    save_blocking: bool = grouped("expert", False)
    """Wait with the next step until a checkpoint is on the disk. By default it is
    copied into host memory, which must have space for it, and written during the next
    steps."""
    keep_every: int | None = grouped("expert", None)
    """Also keep every N-th step's checkpoint."""
    processes: ProcessesConfig = ProcessesConfig()
    """How the processes of a run find one another."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_start()
        require(
            self.hardware is None or self.estimate_memory_only,
            f"--hardware {self.hardware} is for --estimate_memory_only; a run uses the "
            "devices of this machine",
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
            f"--tokenizer {self.tokenizer} is for text beside items, wanted "
            "--text_tokens_per_item or --prompt too",
        )
        require(
            self.epochs is None or self.num_steps is None,
            f"--epochs {self.epochs} and --num_steps {self.num_steps} contradict each "
            "other, wanted one of them",
        )
        targets = self.lora_targets
        require(
            0 < len(targets) == len(set(targets)),
            f"--lora_targets is {' '.join(targets)!r}, wanted at least one of "
            f"{' '.join(LORA_TARGETS)}, each once",
        )

    def _check_numbers(self) -> None:
        counts = "num_steps stop_at batch_size seq_len item_width text_width lora_rank "
        counts += "log_every eval_every test_users save_every keep keep_every "
        counts += "more_steps"
        check_flags(self, counts, ONE_OR_MORE)
        positive = "learning_rate llama_learning_rate grad_clip lora_alpha save_minutes"
        positive += " epochs max_minutes"
        check_flags(self, positive, ABOVE_ZERO)
        check_flags(self, f"{positive} weight_decay", FINITE)
        names = "warmup_steps weight_decay text_tokens_per_item eval_users early_stop"
        check_flags(self, names, ZERO_OR_MORE)
        check_flags(self, "seed", SEED)
        check_flags(self, "dropout gap_dropout id_dropout", SHARE)

    def _check_start(self) -> None:
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
        other = "load_checkpoint" if self.init_from is None else "init_from"
        require(
            self.continue_from is None or getattr(self, other) is None,
            f"--continue_from {self.continue_from} and --{other} "
            f"{getattr(self, other)} contradict each other, wanted one of them",
        )
        require(
            self.continue_from is None or self.num_steps is None,
            f"--continue_from counts on from the other run's step, and --num_steps is "
            f"{self.num_steps}; wanted --more_steps",
        )
        require(
            self.more_steps is None or self.continue_from is not None,
            f"--more_steps {self.more_steps} is for --continue_from",
        )
        require(
            self.more_steps is None or self.epochs is None,
            f"--more_steps {self.more_steps} and --epochs {self.epochs} contradict "
            "each other, wanted one of them",
        )

    @property
    def starts_from(self) -> Path | None:
        """The checkpoint or folder whose weights a new run starts from."""
        return self.load_checkpoint or self.init_from or self.continue_from

    @property
    def reads_text(self) -> bool:
        """Whether the model reads text beside the items."""
        return bool(self.prompt) or self.text_tokens_per_item > 0

    @property
    def lora(self) -> LoraConfig:
        """LoRA's changes, for `--train lora`."""
        return LoraConfig(self.lora_rank, self.lora_alpha, self.lora_targets)


def same_path(one: Path | None, other: Path) -> bool:
    """Returns whether two paths lead to the same file, or the first is not given."""
    return one is None or one.resolve() == other.resolve()
