"""The laws of a catalog that changes, and of the weights that follow it."""

from pathlib import Path

import numpy as np
import pytest
from catalogs import (
    MU,
    SEEN,
    WIDTH,
    halved,
    log_probs,
    make_arrays,
    make_catalog,
    one_step,
)
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from eqids.config import UserError
from eqids.data.catalog.lineage import Change, Lineage, lineage_of
from eqids.data.catalog.living_catalog import Catalog
from eqids.migrate.remap import remap_arrays


class CatalogLaws(RuleBasedStateMachine):
    """Changes a catalog at random, with a head that follows it."""

    @initialize(
        num_clusters=st.integers(1, 4),
        cluster_size=st.integers(1, 4),
        seed=st.integers(0, 99),
    )
    def start(self, num_clusters: int, cluster_size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        num_items = int(rng.integers(1, num_clusters * cluster_size + 1))
        self.catalog = make_catalog(num_items, num_clusters, cluster_size, seed)
        self.arrays = make_arrays(self.catalog, seed)
        self.first, self.lineage = self.arrays, Lineage(self.catalog.item_valid)
        self.query = rng.standard_normal((3, WIDTH))
        self.rng, self.next_id = rng, num_items

    def follow(self, catalog: Catalog, change: Change) -> None:
        """Checks one change against what was before, and takes it."""
        old, before, valid = self.catalog, self.arrays, self.catalog.item_valid
        after = one_step(before, valid, change)
        assert (
            catalog.version == old.version + 1
            and catalog.cluster_size == old.cluster_size
        )
        assert catalog.num_clusters >= old.num_clusters
        kept = catalog.find(old.items)
        there = kept >= 0
        rows, was, now = kept[there], old.slot[there], catalog.slot[kept[there]]
        moved = was != now
        assert set(was[moved].tolist()) == set(change.left.tolist())
        for name in ("params/softmax/table", "params/softmax/bias", MU):
            flat = [x.reshape(-1, *x.shape[2:]) for x in (before[name], after[name])]
            np.testing.assert_array_equal(flat[1][now], flat[0][was])
        unaffected = np.setdiff1d(
            np.arange(len(valid)), change.affected(old.cluster_size)
        )
        self.check_untouched(after, catalog, unaffected)
        opened = change.filled[change.parent >= 0]
        parent = change.parent[change.parent >= 0]
        np.testing.assert_array_equal(after[SEEN][opened], before[SEEN][parent])
        moments = after[MU].reshape(-1, WIDTH)
        assert not moments[change.added].any()
        assert after["params/llama/norm"] is before["params/llama/norm"]
        assert (catalog.retired[rows] == old.retired[there]).all() or len(
            change.retired
        ) + len(change.revived)
        self.lineage = self.lineage.followed("00" * 32, change)
        self.catalog, self.arrays = catalog, after

    def check_untouched(
        self, after: dict[str, np.ndarray], catalog: Catalog, unaffected: np.ndarray
    ) -> None:
        """Their items' log-probabilities move by one number a query."""
        valid = self.catalog.item_valid
        mask = np.zeros_like(valid)
        mask[unaffected] = valid[unaffected]
        slots = np.flatnonzero(mask)
        if len(slots):
            old = log_probs(self.arrays, valid, self.query)[:, slots]
            new = log_probs(after, catalog.item_valid, self.query)[:, slots]
            shift = new - old
            np.testing.assert_allclose(shift, shift[:, :1].repeat(len(slots), 1),
                                       rtol=0, atol=1e-9)  # fmt: skip

    @rule(number=st.integers(1, 3), how=st.sampled_from(["vectors", "similar", "none"]))
    def add(self, number: int, how: str) -> None:
        items = np.arange(self.next_id, self.next_id + number)
        self.next_id += number
        given: dict = {}
        if how == "vectors":
            vectors = self.rng.standard_normal((number, WIDTH))
            given["vectors"] = vectors.astype(np.float32)
        elif how == "similar" and len(self.catalog.items):
            known = self.catalog.items.tolist()
            given["similar"] = [self.rng.choice(known, 2) for _ in items]
        self.follow(*self.catalog.add(items, **given))
        assert not self.catalog.retired[self.catalog.rows(items)].any()

    @precondition(lambda self: (~self.catalog.retired).any())
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        active = self.catalog.items[~self.catalog.retired].tolist()
        items = data.draw(st.lists(st.sampled_from(active), min_size=1, max_size=2,
                                   unique=True))  # fmt: skip
        slots = self.catalog.slot[self.catalog.rows(items)]
        self.follow(*self.catalog.retire(items))
        # Histories that name them go on meaning what they meant.
        np.testing.assert_array_equal(
            self.catalog.slot[self.catalog.rows(items)], slots
        )

    @precondition(lambda self: self.catalog.retired.any())
    @rule(data=st.data(), back=st.booleans())
    def revive_or_release(self, data: st.DataObject, back: bool) -> None:
        retired = self.catalog.items[self.catalog.retired].tolist()
        item = data.draw(st.sampled_from(retired))
        if back:
            slot = self.catalog.slot[self.catalog.rows([item])]
            self.follow(*self.catalog.add([item]))
            assert self.catalog.slot[self.catalog.rows([item])] == slot
        else:
            self.follow(*self.catalog.release([item]))
            with pytest.raises(UserError, match=f"item {item} is not in the catalog"):
                self.catalog.rows([item])

    @precondition(lambda self: (self.catalog.sizes > 1).any())
    @rule(data=st.data())
    def divide(self, data: st.DataObject) -> None:
        sizes = self.catalog.sizes
        many = np.flatnonzero(sizes > 1).tolist()
        cluster = data.draw(st.sampled_from(many))
        catalog, change = halved(self.catalog, cluster)
        self.follow(catalog, change)
        assert len(change.left) == sizes[cluster] // 2
        assert change.parent.tolist() == [cluster]

    @rule(number=st.integers(1, 2))
    def grow(self, number: int) -> None:
        before = self.catalog.num_clusters
        self.follow(*self.catalog.grow(number))
        step = 64 if before % 64 == 0 else number
        assert self.catalog.num_clusters == before + step

    @rule()
    def name_what_is_unknown(self) -> None:
        with pytest.raises(UserError, match="item 'nobody' is not in the catalog"):
            self.catalog.retire(["nobody"])

    @invariant()
    def everyone_has_a_place(self) -> None:
        if not hasattr(self, "catalog"):
            return
        catalog = self.catalog
        assert len(np.unique(catalog.slot)) == len(catalog.items)
        assert (catalog.sizes <= catalog.cluster_size).all()
        np.testing.assert_array_equal(
            self.lineage.valid_at(catalog.version), catalog.item_valid
        )

    @invariant()
    def probabilities_are_of_valid_items_and_sum_to_one(self) -> None:
        if not hasattr(self, "catalog") or self.catalog.retired.all():
            return
        probs = np.exp(log_probs(self.arrays, self.catalog.item_valid, self.query))
        np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=0, atol=1e-9)
        assert not probs[:, self.catalog.slot[self.catalog.retired]].any()
        active = self.catalog.slot[~self.catalog.retired]
        assert (probs[:, active] > 0).all()

    def teardown(self) -> None:
        """Weights of version 1, brought to the last in one go, give its scores."""
        if hasattr(self, "catalog"):
            lineage = lineage_of(Path("file"), self.lineage.to_arrays())
            at_once = remap_arrays(self.first, lineage, 1, "params/")
            for name, array in self.arrays.items():
                np.testing.assert_array_equal(at_once[name], array)


TestCatalogLaws = CatalogLaws.TestCase
TestCatalogLaws.settings = settings(max_examples=20, stateful_step_count=50)


@pytest.mark.long
class TestMoreCatalogLaws(CatalogLaws.TestCase):  # type: ignore[name-defined]
    """As many operations as a catalog may see in years."""

    settings = settings(max_examples=30, stateful_step_count=100)
