"""Sizes of Llama and of the model around it."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eqids.config.errors import require


@dataclass(frozen=True)
class RopeScaling:
    """Frequency scaling of rotary embeddings, with Hugging Face's field names.

    `linear` divides every frequency by `factor` (Chen et al. 2023, section 3.2);
    `llama3` divides those of long wavelengths only (Llama 3.1's `rope_type`).
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
        require(
            0 < self.low_freq_factor < self.high_freq_factor,
            f"low_freq_factor is {self.low_freq_factor} and high_freq_factor "
            f"{self.high_freq_factor}, wanted 0 < low_freq_factor < high_freq_factor",
        )


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
    """Number of text tokens (`vocab_size`)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies, or none."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    tied: bool = False
    """Whether the output layer shares the table of the token embedding."""

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


Adapter = Literal["mlp", "linear"]
"""Two layers with GELU between them, or one matrix."""


LoraTarget = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""A matrix of Llama's blocks, of attention or of the feed-forward layer."""

LORA_TARGETS: tuple[LoraTarget, ...] = ("q", "k", "v", "o", "gate", "up", "down")
"""All of them: fewer do not match full training (Dettmers et al. 2023)."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of a frozen Llama (Hu et al. 2021)."""

    rank: int = 16
    """Rank of a change."""
    alpha: float = 32.0
    """Scale of a change: it is multiplied by alpha / rank."""
    targets: tuple[LoraTarget, ...] = LORA_TARGETS
    """The matrices that are changed."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the whole model."""

    llama: LlamaConfig
    """Sizes of the Llama."""
    num_clusters: int
    """Clusters of the item table, empty ones included."""
    cluster_size: int
    """Places in a cluster."""
    item_width: int = 384
    """Size of an item's vector."""
    adapter: Adapter = "mlp"
    """Kind of the adapters."""
    tied_items: bool = True
    """Whether one item table serves the input and the prediction."""
    num_gaps: int = 36
    """Number of buckets of the time between items (0 is unknown)."""
    dropout: float = 0.0
    """Share of activations dropped in training, of the input and of each branch."""
    lora: LoraConfig | None = None
    """Low-rank changes of the Llama, if it has any."""
    request_time: bool = False
    """Whether the model reads when the next item is requested."""
