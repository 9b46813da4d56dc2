"""The arithmetic of slots: `slot = cluster * cluster_size + place`."""

from typing import TypeVar

Integers = TypeVar("Integers")
"""An integer, or an array of them (NumPy's or jax's)."""


def slot_of(cluster: Integers, place: Integers, cluster_size: int) -> Integers:
    """Returns the slots of places in clusters."""
    return cluster * cluster_size + place  # type: ignore[operator, return-value]


def cluster_of(slot: Integers, cluster_size: int) -> Integers:
    """Returns the clusters of slots; of a negative slot, a negative number."""
    return slot // cluster_size  # type: ignore[operator, return-value]


def place_of(slot: Integers, cluster_size: int) -> Integers:
    """Returns the places of slots in their clusters."""
    return slot % cluster_size  # type: ignore[operator, return-value]
