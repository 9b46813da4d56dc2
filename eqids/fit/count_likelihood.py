"""Probabilities of baselines that count, so that a model's likelihood has a comparison.

A flat guess, popularity, and the Markov chain mixed with popularity. The weight of the
mixture is the best one on validation.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from eqids.data import Dataset
from eqids.fit.baselines import successor_weights
from eqids.fit.evaluation import Split, chunks, target_slots

_WEIGHTS = np.linspace(0.0, 0.98, 50)
"""Weights of the Markov chain that are tried."""


@dataclass(frozen=True)
class CountLikelihoods:
    """Negative log-likelihoods of targets, in nats, as means over users.

    Attributes:
        uniform: of a flat guess among all items.
        popularity: of popularity, with one added to each count.
        markov: of the Markov chain mixed with popularity.
        markov_weight: the weight of the chain in the mixture.
    """

    uniform: float
    popularity: float
    markov: float
    markov_weight: float


def count_likelihoods(dataset: Dataset, split: Split) -> CountLikelihoods:
    """Returns the likelihoods of baselines on a split.

    Args:
        dataset: the dataset with the histories and the targets.
        split: the split that has the targets. The weight of the mixture is fitted on
            validation if the dataset has validation targets.
    """
    popular = _popularity_probability(dataset)
    chain, flat = _target_probabilities(dataset, split, popular)
    fitted_on = chain, flat
    if split == "test" and (dataset.valid_at > 0).any():
        fitted_on = _target_probabilities(dataset, "valid", popular)
    weight = min(_WEIGHTS, key=lambda one: _mixed(one, *fitted_on))
    return CountLikelihoods(
        uniform=float(np.log(np.count_nonzero(dataset.item_valid))),
        popularity=float(-np.log(flat).mean()),
        markov=_mixed(weight, chain, flat),
        markov_weight=round(float(weight), 4),
    )


def _popularity_probability(dataset: Dataset) -> Float64[np.ndarray, " slot"]:
    valid = dataset.item_valid.reshape(-1)
    counts = np.where(valid, dataset.item_counts.reshape(-1) + 1.0, 0.0)
    return counts / counts.sum()


def _target_probabilities(
    dataset: Dataset, split: Split, popular: Float64[np.ndarray, " slot"]
) -> tuple[Float64[np.ndarray, " user"], Float64[np.ndarray, " user"]]:
    """P of each target by the chain and by popularity.

    Retired items are left out of the chain. Where it knows no successor, popularity
    alone predicts.
    """
    weigh, valid = successor_weights(dataset), dataset.item_valid.reshape(-1)
    target, parts = target_slots(dataset, split), []
    for chunk in chunks(dataset, split):
        weights = weigh(chunk).multiply(valid).tocsr()[: chunk.num_users]
        own = np.asarray(
            weights[np.arange(chunk.num_users), chunk.target[: chunk.num_users]]
        )
        total = np.asarray(weights.sum(axis=1)).reshape(-1)
        known = own.reshape(-1) / np.where(total > 0, total, 1.0)
        parts.append(np.where(total > 0, known, np.nan))
    chain = np.concatenate(parts)
    return np.where(np.isnan(chain), popular[target], chain), popular[target]


def _mixed(
    weight: float, chain: Float64[np.ndarray, " user"],
    popular: Float64[np.ndarray, " user"],
) -> float:  # fmt: skip
    return float(-np.log(weight * chain + (1 - weight) * popular).mean())
