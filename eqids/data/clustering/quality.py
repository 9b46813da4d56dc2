"""Measures a clustering: balance, and how often consecutive events share a cluster."""

from typing import TypedDict

import numpy as np


class Balance(TypedDict):
    """How evenly items fill the clusters; fields of `ClustersInfo`."""

    smallest: int
    largest: int
    mean: float
    empty_share: float


def balance(sizes: np.ndarray, cluster_size: int) -> Balance:
    """Returns how evenly items fill the clusters.

    Args:
        sizes: int [cluster].
        cluster_size: places in a cluster.
    """
    return Balance(
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        mean=float(sizes.mean()),
        empty_share=1 - int(sizes.sum()) / (len(sizes) * cluster_size),
    )


def consecutive_share(
    cluster: np.ndarray, item: np.ndarray, users: np.ndarray
) -> float:
    """Returns the share of consecutive training events whose items share a cluster.

    Args:
        cluster: int [item].
        item: int [event], training events only.
        users: int [event].
    """
    of_event = cluster[item]
    together = (of_event[1:] == of_event[:-1])[_same_user(users)]
    return float(together.mean()) if len(together) else 0.0


def random_share(sizes: np.ndarray, item: np.ndarray, users: np.ndarray) -> float:
    """Returns the expected `consecutive_share` of random clusters of these sizes.

    An item that follows itself shares a cluster with itself in any clustering. Two
    different items share one as often as two places drawn from all.

    Args:
        sizes: int [cluster].
        item: int [event], training events only.
        users: int [event].
    """
    num_items = int(sizes.sum())
    repeats = (item[1:] == item[:-1])[_same_user(users)]
    if not len(repeats):
        return 0.0
    pairs = max(num_items * (num_items - 1), 1)
    chance = float((sizes * (sizes - 1.0)).sum()) / pairs
    repeated = float(repeats.mean())
    return repeated + (1 - repeated) * chance


def _same_user(users: np.ndarray) -> np.ndarray:
    return users[1:] == users[:-1]
