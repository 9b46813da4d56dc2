"""What a change does to a catalog, and to the weights that follow it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from catalogs import WIDTH, halved, log_probs, make_arrays, make_catalog, one_step
from conftest import TOLERANCE

from eqids.config import UserError
from eqids.data.catalog.lineage import Lineage
from eqids.data.catalog.living_catalog import Catalog
from eqids.migrate.fit_new_clusters import (
    MigratedSoftmax,
    cluster_ancestors,
    fit_new_clusters,
)


def small(vectors: list[list[float]], slots: list[int], cluster_size: int) -> Catalog:
    """Items 0, 1, … of these vectors in these slots."""
    num = len(vectors)
    return Catalog(
        items=np.arange(num),
        slot=np.array(slots, np.int32),
        retired=np.zeros(num, np.bool_),
        count=np.arange(num) + 1,
        vectors=np.array(vectors, np.float32),
        num_clusters=max(slots) // cluster_size + 1,
        cluster_size=cluster_size,
    )


def test_a_new_item_enters_the_cluster_nearest_to_its_vector() -> None:
    catalog = small([[0, 0], [1, 0], [9, 9], [9, 8]], [0, 1, 4, 5], cluster_size=4)
    near = np.array([[8, 8], [2, 0]], np.float32)
    after, change = catalog.add([70, 80], vectors=near)
    assert after.slot[after.rows([70, 80])].tolist() == [6, 2]
    assert change.added.tolist() == [6, 2] and not len(change.left)
    # Their use, none and one added, beside that of the others: 3 + 4 + 2, 1 + 2 + 2.
    np.testing.assert_allclose(change.share, [1 / 9, 1 / 5], rtol=1e-6)
    by_mean, change = catalog.add([70], similar=[[2, 3]])
    assert by_mean.vectors[-1].tolist() == [9, 8.5] and by_mean.slot[-1] == 6
    assert change.similar.tolist() == [[4, 5]]


def test_a_full_cluster_divides_by_similarity_and_only_one_part_moves() -> None:
    vectors = [[1, 0], [5, 0], [1.1, 0], [5.2, 0], [90, 0]]
    catalog = small(vectors, [0, 1, 2, 3, 5], cluster_size=4)
    after, change = catalog.add([70], vectors=np.array([[4, 0]], np.float32))
    cluster = (after.slot // 4).tolist()
    assert cluster[0] == cluster[2] != cluster[1] == cluster[3] and cluster[4] == 1
    kept = np.flatnonzero(after.slot[:5] == catalog.slot)
    assert len(kept) == 5 - len(change.left) and 4 in kept
    assert change.filled.tolist() == [2] and change.parent.tolist() == [0]
    # An empty cluster is used before the table grows.
    grown, _ = catalog.grow(1)
    again, change = halved(grown, 0)
    assert again.num_clusters == grown.num_clusters == 3
    assert change.filled.tolist() == [2]


def test_many_clusters_stay_a_multiple_of_64() -> None:
    catalog = make_catalog(num_items=128, num_clusters=64, cluster_size=2)
    after, _ = catalog.add([500], vectors=np.ones((1, WIDTH), np.float32))
    assert after.num_clusters == 128
    for more in range(10):
        after, _ = halved(after, int(np.argmax(after.sizes)))
        assert after.num_clusters == 128, more
    assert catalog.grow(65)[0].num_clusters == 192
    assert make_catalog().grow(1)[0].num_clusters == 4


def test_items_of_which_nothing_is_known_fill_the_emptiest_clusters() -> None:
    catalog, _ = small([[1, 0]] * 5, [0, 1, 2, 4, 5], cluster_size=4).grow(1)
    after, change = catalog.add(np.arange(10, 15))
    assert (after.sizes == [4, 4, 2]).all()
    assert change.filled.tolist() == [2] and change.parent.tolist() == [-1]


def test_rebalance_leaves_a_share_of_every_cluster_free() -> None:
    catalog = make_catalog(num_items=60, num_clusters=6, cluster_size=10)
    for share, most in ((0.1, 9), (0.5, 5), (0.99, 1)):
        after, _ = catalog.rebalance(share)
        assert after.sizes.max() <= most
    assert after.version == 2 and catalog.rebalance(0.0)[0] is catalog
    retired, _ = catalog.retire([3, 4])
    forgotten, _ = retired.rebalance(0.0, forget=[3])
    assert forgotten.version == 3 and forgotten.find([3, 4]).tolist() == [-1, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.add([2]), "item 2 is in the catalog already"),
        (lambda c: c.add([70, 80, 70]), "item 70 is given twice"),
        (lambda c: c.add([70], similar=[[1, 71]]), "item 71 is not in the catalog"),
        (lambda c: c.retire(["x"]), "item 'x' is not in the catalog"),
        (lambda c: c.retire([6]), "item 6 is retired already"),
        (lambda c: c.release([1]), "item 1 is not retired"),
        (lambda c: c.rebalance(1.0), "free_share is 1.0, wanted at least 0"),
        (lambda c: c.grow(0), "0 clusters to add, wanted 1 or more"),
        (lambda c: c.grow(2**30), "3221225481 places, wanted less than 2147483648"),
    ],
)
def test_what_cannot_be_done_is_named(change: Callable, said: str) -> None:
    catalog, _ = make_catalog().retire([6])
    with pytest.raises(UserError, match=said):
        change(catalog)


def test_ids_may_be_text_or_mixed() -> None:
    catalog = replace(make_catalog(3), items=np.array(["a", "b", "c"], object))
    after, _ = catalog.add(["d"])
    assert after.find(["d", "a", 1]).tolist() == [3, 0, -1]


def test_mass_follows_the_items() -> None:
    """For a query of zeros all changes are exact: what is left keeps its proportions,
    and a cluster that divides changes no probability."""
    catalog = make_catalog(num_items=9, num_clusters=3, cluster_size=4)
    arrays, query = make_arrays(catalog), np.zeros((1, WIDTH))
    old = log_probs(arrays, catalog.item_valid, query)[0, catalog.slot]
    for name, (after, change) in {
        "divide": halved(catalog, 0),
        "retire": catalog.retire(catalog.items[[0, 4]]),
        "add": catalog.add([70, 71], similar=[catalog.items[:2]] * 2),
    }.items():
        found = one_step(arrays, catalog.item_valid, change)
        new = log_probs(found, after.item_valid, query)[0, after.slot[:9]]
        shift = (new - old)[~after.retired[:9]]
        assert np.ptp(shift) < TOLERANCE["float32"], name
        assert (abs(shift[0]) < TOLERANCE["float32"]) == (name == "divide")


def test_a_new_item_starts_as_the_mean_of_what_it_resembles() -> None:
    catalog = make_catalog(num_items=7, num_clusters=3, cluster_size=3)
    arrays = make_arrays(catalog)
    table = arrays["params/softmax/table"].reshape(-1, WIDTH)
    after, change = catalog.add([70], similar=[[1, 5]])
    found = one_step(arrays, catalog.item_valid, change)
    row = found["params/softmax/table"].reshape(-1, WIDTH)[after.slot[-1]]
    np.testing.assert_allclose(row, table[catalog.slot[[1, 5]]].mean(axis=0), rtol=1e-6)
    lonely, change = catalog.add([70], vectors=catalog.vectors[:1])
    found = one_step(arrays, catalog.item_valid, change)
    row = found["params/softmax/table"].reshape(-1, WIDTH)[lonely.slot[-1]]
    mates = lonely.slot[:-1][lonely.slot[:-1] // 3 == lonely.slot[-1] // 3]
    flat = found["params/softmax/table"].reshape(-1, WIDTH)
    np.testing.assert_allclose(row, flat[mates].mean(axis=0), rtol=1e-6)


def test_fitted_clusters_are_nearer_to_the_old_model() -> None:
    catalog = make_catalog(num_items=30, num_clusters=4, cluster_size=8)
    arrays, rng = make_arrays(catalog), np.random.default_rng(1)
    after, change = halved(catalog, 1)
    lineage = Lineage(catalog.item_valid, ("00" * 32,), (change,))
    ancestor, affected = cluster_ancestors(lineage, 1)
    assert ancestor.tolist() == [0, 1, 2, 3, 1]
    assert affected.tolist() == [False, True, False, False, True]
    found = one_step(arrays, catalog.item_valid, change)
    old = MigratedSoftmax.of(arrays, "params/", catalog.item_valid)
    new = MigratedSoftmax.of(found, "params/", after.item_valid)
    queries = rng.standard_normal((400, WIDTH)).astype(np.float32)
    table, bias = fit_new_clusters(old, new, ancestor, affected, queries)
    np.testing.assert_array_equal(table[~affected], new.cluster_table[~affected])
    fitted = {
        **found,
        "params/softmax/cluster_table": table,
        "params/softmax/cluster_bias": bias,
    }
    fresh = rng.standard_normal((400, WIDTH))
    was = log_probs(arrays, catalog.item_valid, fresh)[:, catalog.slot]

    def divergence(arrays: dict[str, np.ndarray]) -> float:
        now = log_probs(arrays, after.item_valid, fresh)[:, after.slot]
        return float((np.exp(was) * (was - now)).sum(axis=1).mean())

    assert divergence(fitted) < divergence(found) / 3
