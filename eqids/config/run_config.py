"""The config of a run, as its checkpoints record it."""

from dataclasses import dataclass
from pathlib import Path

from eqids.config.choices import Dtype, Strategy
from eqids.config.recipes import Recipe
from eqids.config.train_flags import TrainConfig


@dataclass(frozen=True)
class TokensConfig:
    """The text that a run reads, by its hashes."""

    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    tokens: str
    """SHA-256 of the tokens of the prompt and of every item."""


@dataclass(frozen=True)
class Continued:
    """The checkpoint that a run continues, of another run."""

    checkpoint: Path
    """DIR/STEP."""
    score: float | None
    """Its NDCG@10 on validation, on the dataset and the users of this run; None if no
    user has a validation target."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run does: its flags, and what the flags leave open."""

    flags: TrainConfig
    """The flags that the user gave."""
    recipe: Recipe
    """The recipe of the run's size and strategy, changed by the flags."""
    strategy: Strategy
    """What trains."""
    dtype: Dtype
    """Compute dtype of Llama."""
    stop_at: int
    """Last step of this process."""
    save_every: int
    """Steps between checkpoints."""
    data_dir: Path
    """The dataset folder."""
    checkpoint_dir: Path
    """The run's folder."""
    tokens: TokensConfig | None = None
    """Hashes of the text beside the items, if the run reads any."""
    encoding_width: int = 0
    """Size of the encodings that text columns are made of; 0 if there are none."""
    text_encoder: str | None = None
    """Hash of the Llama and the tokenizer that made these encodings."""
    continues: Continued | None = None
    """The checkpoint that the run continues, if it does."""
