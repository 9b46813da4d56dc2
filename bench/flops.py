"""FLOPs of a train step's matrix products, by formula.

They are those of the mathematics, not of a program: without padding, without scores of
later positions, and without anything computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eqids.config import LlamaConfig, LoraTarget, ModelConfig, Strategy
from eqids.data.batches.host_batch import HostBatch

MatrixShape = tuple[int, int]
"""Outputs and inputs of a matrix."""


@dataclass(frozen=True)
class Amount:
    """The contents of batches, in numbers.

    Attributes:
        positions: positions that hold an item or a token.
        pairs: pairs of a position and one that it attends to, itself included.
        targets: positions that predict an item.
    """

    positions: int
    pairs: int
    targets: int

    @staticmethod
    def of(batches: Sequence[HostBatch]) -> "Amount":
        """Counts batches; segments of a row do not attend to each other."""
        positions = pairs = targets = 0
        for batch in batches:
            for segment in batch.segment:
                size = np.bincount(segment)[1:].astype(np.int64)
                positions += int(size.sum())
                pairs += int((size * (size + 1) // 2).sum())
            targets += int(np.count_nonzero(batch.target >= 0))
        return Amount(positions, pairs, targets)


def block_matrices(config: LlamaConfig) -> dict[LoraTarget, MatrixShape]:
    """Returns the shapes of one block's matrices."""
    width, ffn = config.width, config.ffn
    queries, keys = config.num_heads * config.head, config.num_kv_heads * config.head
    return {
        "q": (queries, width),
        "k": (keys, width),
        "v": (keys, width),
        "o": (width, queries),
        "gate": (ffn, width),
        "up": (ffn, width),
        "down": (width, ffn),
    }


def train_flops(sizes: ModelConfig, strategy: Strategy, amount: Amount) -> int:
    """Returns the FLOPs of a train step's matrix products.

    A matrix takes 2 for each weight and position, 2 more for the gradient of its input,
    and 2 more for its own gradient if it trains. Attention takes 4 for each pair and
    channel, and 8 more in the backward pass.

    Args:
        sizes: sizes of the model.
        strategy: what trains.
        amount: the contents of the batches.
    """
    llama = sizes.llama
    matrices = block_matrices(llama)
    weights = sum(a * b for a, b in matrices.values())
    each = (6 if strategy == "all" else 4) * weights
    if strategy == "lora":
        assert sizes.lora is not None, "LoRA without its rank"
        each += 6 * sizes.lora.rank * sum(
            sum(matrices[name]) for name in sizes.lora.targets
        )  # fmt: skip
    blocks = llama.num_layers * each * amount.positions
    attention = llama.num_layers * 12 * llama.num_heads * llama.head * amount.pairs
    item_width, width = sizes.item_width, llama.width
    adapter = {
        "mlp": 4 * item_width * (item_width + width),
        "linear": item_width * width,
        "identity": 0,
    }[sizes.adapter]
    adapters = 6 * adapter * (amount.positions + amount.targets)
    logits = sizes.num_clusters + sizes.cluster_size
    head = 6 * item_width * logits * amount.targets
    return blocks + attention + adapters + head
