"""Histories that are drawn instead of read, and the batches of a run on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from bench.catalogs import zipf_items
from bench.gpu.gpu_cases import StepCase
from eqids.config import ModelConfig
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches

_MEAN, _LONGEST = 40, 400
"""Events of a history: the mean, and the most. Lengths are geometric."""
_PROMPT = 4
"""Tokens that begin every sequence, if items have texts."""


@dataclass(frozen=True, eq=False)
class MadeHistories:
    """Histories as `TrainingBatches` takes them, all for training."""

    path: Path
    slots: Int32[np.ndarray, " event"]
    times: Int64[np.ndarray, " event"] | None
    offsets: Int64[np.ndarray, " bound"]
    train_length: Int[np.ndarray, " user"]
    item_valid: Bool[np.ndarray, "cluster place"]


def made_batches(
    case: StepCase, sizes: ModelConfig, num_batches: int, seed: int
) -> list[HostBatch]:
    """Returns packed batches of generated histories, as a run makes them.

    Args:
        case: the size of a batch, the items and their tokens.
        sizes: the sizes of the model, whose catalog is filled slot by slot.
        num_batches: how many.
        seed: of everything.
    """
    rng = np.random.default_rng((seed, 2))
    positions = num_batches * case.batch_size * case.seq_len
    users = 16 + 2 * positions // _MEAN
    length = np.clip(rng.geometric(1 / _MEAN, users), 2, _LONGEST)
    offsets = np.concatenate([[0], np.cumsum(length)])
    places = sizes.num_clusters, sizes.cluster_size
    valid = np.arange(places[0] * places[1]).reshape(places) < case.num_items
    times = np.cumsum(rng.geometric(1e-4, offsets[-1])).astype(np.int64)
    made = MadeHistories(
        Path("generated"),
        zipf_items(case.num_items, int(offsets[-1]), seed),
        times,
        offsets,
        length.astype(np.int32),
        valid,
    )
    config = BatchConfig(case.seq_len, case.batch_size, seed)
    batches = TrainingBatches(made, config, _tokens(case, sizes, valid.size, rng))
    return [batches.batch(k) for k in range(num_batches)]


def _tokens(
    case: StepCase, sizes: ModelConfig, num_slots: int, rng: np.random.Generator
) -> ItemTokens | None:
    """Random texts of up to `tokens_per_item` tokens, or none."""
    most, vocab = case.tokens_per_item, sizes.llama.vocab
    if not most:
        return None
    length = rng.integers(1, most + 1, num_slots)
    ids = rng.integers(0, vocab, length.sum(), np.int32)
    prompt = rng.integers(0, vocab, _PROMPT, np.int32)
    return ItemTokens(ids, np.cumsum(length) - length, length, prompt, most)
