"""How many clusters a catalog has by default."""

import math

_WHOLE = 20_000
"""Up to so many items are one cluster: a softmax over all items predicts better than
one in two levels (docs/quality.md), and so few cost little more."""
_SMALL, _LARGE = 10_000, 100_000
"""At the first number of items, sqrt(items) clusters make a training step fastest; from
the second on, 4 times as many (docs/head.md)."""
_STEP = 64
"""A large number of clusters is a multiple of this, so that meshes divide it."""


def default_num_clusters(num_items: int) -> int:
    """Returns the default number of clusters.

    It is 1 up to 20,000 items, and from 1.9 sqrt(items) to 4 sqrt(items) above. Above
    512 it is a multiple of 64.
    """
    if num_items <= _WHOLE:
        return 1
    size = math.log(num_items / _SMALL) / math.log(_LARGE / _SMALL)
    num_clusters = round((1 + 3 * min(size, 1.0)) * num_items**0.5)
    if num_clusters <= 8 * _STEP:
        return num_clusters
    return round(num_clusters / _STEP) * _STEP
