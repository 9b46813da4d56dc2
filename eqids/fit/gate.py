"""Fits the gate between softmax and counts to the targets of validation.

Counts of training events contain these events, so that a gate could not learn from
them how well counts predict. The targets of validation are in no count.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import minimize

from eqids.data import Dataset
from eqids.fit.evaluation import Asked, Evaluation, Ranker, chunks, evaluation
from eqids.model import EqIDs
from sharding import beside, replicated

RIDGE = 1.0
"""Weight of the squared weights of the gate, against a sum over targets; the weight of
the constant is free."""


@dataclass(frozen=True, eq=False)
class GateTargets:
    """Held-out targets, as softmax and counts predict them.

    Attributes:
        log_softmax: log P of each target by the softmax.
        log_counts: log P by counts; -inf if they do not predict it.
        features: see `SuccessorCounts.features`; the first is 1.
    """

    log_softmax: Float[np.ndarray, " target"]
    log_counts: Float[np.ndarray, " target"]
    features: Float[np.ndarray, "target feature"]


def gate_loss(
    gate: Float[np.ndarray, " feature"], targets: GateTargets
) -> tuple[float, Float[np.ndarray, " feature"]]:
    """Returns what a fitted gate minimises, and its gradient.

    It is the summed negative log-likelihood of the mixture, and a ridge.

    Args:
        gate: weights of the features.
        targets: whose likelihood.
    """
    odds = targets.features @ gate
    log_share = -np.logaddexp(0, -odds)
    mixed = np.logaddexp(
        targets.log_softmax - np.logaddexp(0, odds), targets.log_counts + log_share
    )
    # By how much the counts' share of the target's probability exceeds their weight.
    excess = np.exp(targets.log_counts + log_share - mixed) - np.exp(log_share)
    shrunk = RIDGE * np.append(0.0, gate[1:])
    loss = -mixed.sum() + 0.5 * shrunk @ gate
    return float(loss), shrunk - excess @ targets.features


def fit_gate(targets: GateTargets) -> Float[np.ndarray, " feature"]:
    """Returns the gate with the least `gate_loss`, from even odds on.

    Args:
        targets: without those whose history has no counts; zeros if there are none.
    """
    start = np.zeros(targets.features.shape[1])
    found = minimize(gate_loss, start, (targets,), "BFGS", jac=True)
    return np.asarray(found.x, np.float64)


def evaluate_fitted(
    model: EqIDs, dataset: Dataset, ranker: Ranker
) -> tuple[EqIDs, Evaluation]:
    """Fits the gate of a model, and returns the model and its metrics on validation.

    Llama reads every history once.

    Args:
        model: has counts; placed as `ranker` expects it.
        dataset: the dataset with the histories and the targets.
        ranker: what `make_ranker` returned.
    """
    asked, num_users, parts = list[Asked](), list[int](), list[np.ndarray]()
    predict = jax.jit(_predicted)
    for chunk in chunks(dataset, "valid", jax.device_count()):
        asked.append(ranker.ask(model, chunk))
        num_users.append(chunk.num_users)
        parts.append(np.asarray(predict(model, asked[-1]))[: chunk.num_users])
    predicted = np.concatenate(parts).astype(np.float64)
    counted = predicted[predicted[:, 0] > 0, 1:]
    gate = fit_gate(GateTargets(counted[:, 0], counted[:, 1], counted[:, 2:]))
    model = with_gate(model, gate)
    ranked = (
        np.asarray(ranker.ranks(model, one))[:num]
        for one, num in zip(asked, num_users, strict=True)
    )
    return model, evaluation("valid", ranked)


def with_gate(model: EqIDs, gate: Float[np.ndarray, " feature"]) -> EqIDs:
    """Returns a model, or its trained part, with another gate, placed as its own."""
    placed = beside(gate.astype(np.float32), gate_of(model))
    return eqx.tree_at(lambda m: m.successors.gate, model, placed)


def gate_of(model: EqIDs) -> Float[Array, " feature"]:
    """Returns the gate of a model with counts."""
    assert model.successors is not None, "a model without counts"
    return model.successors.gate


def _predicted(model: EqIDs, asked: Asked) -> Float[Array, "batch columns"]:
    """Whether there are counts, log P by softmax and by counts, and the features."""
    counts, target = model.successors, asked.targets.target
    assert counts is not None
    slot, log_prob = counts.predicted(asked.recent)
    own = jnp.where(slot == target[:, None], log_prob, -jnp.inf).max(axis=1)
    columns = [
        jnp.any(log_prob > -jnp.inf, axis=1),
        model.softmax.log_prob(asked.query, target),
        own,
        *counts.features(asked.recent).T,
    ]
    return replicated(jnp.stack([x.astype(jnp.float32) for x in columns], axis=1))
