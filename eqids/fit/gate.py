"""Chooses what held-out events alone can tell: the gates of a model.

They are the weight of counts in the mixture and the lift of the items' texts. Counts of
training events contain these events, and learned columns know them by heart: training
events do not tell how well counts and texts predict others. The targets of validation
do. What is best for the likelihood is not best for the first places of a ranking
(docs/counts.md), which is what a recommender shows: NDCG@10 decides.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqids.data import Dataset
from eqids.fit.evaluation import ChunkQueries, Evaluation, Ranker, chunks, evaluation
from eqids.fit.ranking import metrics
from eqids.model import EqIDs
from sharding import beside

GATES = tuple(round(0.1 * i, 1) for i in range(8))
"""The weights of counts to choose from. NDCG@10 is flat around the best one."""

LIFTS = (0.0, 1.0, 2.0, 3.0, 4.0)
"""The lifts of texts to choose from, as an item's own logit by its text."""

USERS = 1_000
"""Users on whom gates are chosen, about; each choice costs as much as ranking that many
users as often as it has values."""

_Choice = tuple[Callable[[EqIDs, float], EqIDs], Sequence[float]]
"""Sets a gate, and the values to choose from."""


def evaluate_with_best_gates(
    model: EqIDs, dataset: Dataset, ranker: Ranker
) -> tuple[EqIDs, Evaluation]:
    """Chooses the gates of a model; returns it and its metrics on validation.

    Llama reads every history once. The weight of counts is chosen without a lift, then
    the lift, then the weight again.

    Args:
        model: has gates; placed as `ranker` expects it.
        dataset: the dataset with the histories and the targets.
        ranker: what `make_ranker` returned.
    """
    found = list[tuple[ChunkQueries, int]]()
    for chunk in chunks(dataset, "valid", jax.device_count()):
        found.append((ranker.queries_of(model, chunk), chunk.num_users))
    users = sum(num for _, num in found)
    some = found[:: max(1, round(users / USERS))]
    counts, lift = list[_Choice](), list[_Choice]()
    if model.successors is not None:
        counts = [(with_gate, GATES)]
    if has_lift(model):
        model, lift = with_lift(model, 0.0), [(with_lift, LIFTS)]
    for changed, values in [*counts, *lift, *(counts if lift else [])]:
        scores = [_ndcg(changed(model, value), some, ranker) for value in values]
        model = changed(model, values[int(np.argmax(scores))])
    return model, evaluation(model, "valid", _ranked(model, found, ranker))


def gates(model: EqIDs) -> list[PyTree]:
    """Returns the gates of a model, or of its trained part."""
    counts = [] if model.successors is None else [model.successors.gate]
    lift = None if model.skip is None else model.skip.text_lift
    return counts if lift is None else [*counts, lift]


def has_lift(model: EqIDs) -> bool:
    """Returns whether a model can lift the items' texts."""
    return model.skip is not None and model.skip.text_lift is not None


def with_lift(model: EqIDs, lift: float) -> EqIDs:
    """Returns a model, or its trained part, with another lift, placed as its own."""
    assert model.skip is not None and model.skip.text_lift is not None
    placed = beside(np.asarray(lift, np.float32), model.skip.text_lift)
    return eqx.tree_at(lambda m: m.skip.text_lift, model, placed)


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
