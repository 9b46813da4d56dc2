"""Chooses the weight of counts in the mixture, on the targets of validation.

Counts of training events contain these events, so they do not tell how well counts
predict. The targets of validation are in no count. What is best for the likelihood is
not best for the first places of a ranking (docs/counts.md), which is what a recommender
shows: the weight is the one with the best NDCG@10.
"""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from eqids.data import Dataset
from eqids.fit.evaluation import ChunkQueries, Evaluation, Ranker, chunks, evaluation
from eqids.fit.ranking import metrics
from eqids.model import EqIDs
from sharding import beside

GATES = tuple(round(0.1 * i, 1) for i in range(8))
"""The weights to choose from. NDCG@10 is flat around the best one."""

USERS = 1_000
"""Users on whom the weight is chosen, about; it costs as much as ranking eight times as
many users."""


def evaluate_with_best_gate(
    model: EqIDs, dataset: Dataset, ranker: Ranker
) -> tuple[EqIDs, Evaluation]:
    """Chooses the gate of a model, and returns the model and its metrics on validation.

    Llama reads every history once.

    Args:
        model: has counts; placed as `ranker` expects it.
        dataset: the dataset with the histories and the targets.
        ranker: what `make_ranker` returned.
    """
    found = list[tuple[ChunkQueries, int]]()
    for chunk in chunks(dataset, "valid", jax.device_count()):
        found.append((ranker.queries_of(model, chunk), chunk.num_users))
    users = sum(num for _, num in found)
    some = found[:: max(1, round(users / USERS))]
    scores = [_ndcg(with_gate(model, gate), some, ranker) for gate in GATES]
    model = with_gate(model, GATES[int(np.argmax(scores))])
    return model, evaluation(model, "valid", _ranked(model, found, ranker))


def with_gate(model: EqIDs, gate: float) -> EqIDs:
    """Returns a model, or its trained part, with another gate, placed as its own."""
    placed = beside(np.asarray(gate, np.float32), gate_of(model))
    return eqx.tree_at(lambda m: m.successors.gate, model, placed)


def gate_of(model: EqIDs) -> Float[Array, ""]:
    """Returns the gate of a model with counts."""
    assert model.successors is not None, "a model without counts"
    return model.successors.gate


def _ndcg(model: EqIDs, some: list[tuple[ChunkQueries, int]], ranker: Ranker) -> float:
    return metrics(_ranked(model, some, ranker)[:, 0])["ndcg@10"]


def _ranked(
    model: EqIDs, found: list[tuple[ChunkQueries, int]], ranker: Ranker
) -> Float[np.ndarray, "user 3"]:
    parts = [np.asarray(ranker.ranks(model, one))[:num] for one, num in found]
    return np.concatenate(parts).astype(np.float64)
