"""Augmented vectors of items, whose inner products are logits, and an index of them."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from eqids.config import require

INDEX_FILE = "items.faiss"
_ONE = "that of the softmax's probabilities"
_MANY = (
    "that of the softmax's probabilities within a cluster; across clusters it is near "
    "that, because no product holds the clusters' normalizers"
)


def check_faiss() -> None:
    """Requires that FAISS is installed.

    Raises:
        UserError: it is not.
    """
    require(
        importlib.util.find_spec("faiss") is not None,
        "--faiss needs faiss-cpu: pip install 'eqids[faiss]'",
    )


def augmented_vectors(
    vectors: Mapping[str, np.ndarray], cluster: Int[np.ndarray, " item"]
) -> Float32[np.ndarray, "item augmented_width"]:
    """Returns vectors whose product with an augmented query is an item's logit.

    An item's vector is the sum of its own and its cluster's, and so is the bias after
    it. The product with [query, 1] is the logit of the cluster plus that of the item
    within it: log P(item), but for the normalizers of both levels.

    Args:
        vectors: item_vectors, item_bias, cluster_vectors and cluster_bias.
        cluster: of each item.
    """
    table = vectors["item_vectors"] + vectors["cluster_vectors"][cluster]
    bias = vectors["item_bias"] + vectors["cluster_bias"][cluster]
    return np.column_stack([table, bias])


def index_bytes(augmented: Float32[np.ndarray, "item augmented_width"]) -> bytes:
    """Returns the file of an `IndexFlatIP`, in which the id of a vector is its row."""
    faiss: Any = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(augmented.shape[1])
    index.add(augmented)
    return bytes(faiss.serialize_index(index))


def ranking_note(num_clusters: int) -> Mapping[str, str]:
    """Returns what items.json says of augmented vectors."""
    return {
        "query": "a vector of Recommender.user_vectors, and 1 after it",
        "inner_product": "the item's logit plus its cluster's, biases included",
        "order": _ONE if num_clusters == 1 else _MANY,
        "counts": "not in it; the answers of a model that has counts mix them in",
    }
