"""The server finds items by ids as the dataset does, whatever a request holds."""

from collections.abc import Callable

import numpy as np
import pytest
from conftest import make_dataset
from hypothesis import given, settings, strategies as st

from eqids.data import Dataset
from eqids.inference.server.item_names import ItemNames

OF: dict[str, Callable[[int], str | int]] = {
    "near numbers": lambda i: 3 * i - 7,
    "far numbers": lambda i: i * 10**12 - 5,
    "texts": lambda i: f"item {i}",
    "numbers as texts": lambda i: str(i),
}
VALUES = (
    st.integers(-10, 90)
    | st.integers(0, 30).map(lambda i: i * 10**12 - 5)
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), 2.0, 2.5, 1e300, "2", "2.0", ""])
    | st.integers(0, 30).map("item {}".format)
)


@pytest.fixture(scope="module", params=OF)
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Dataset:
    folder = tmp_path_factory.mktemp("names") / "data"
    return make_dataset(folder, item_of=OF[request.param])


@pytest.fixture(scope="module")
def names(dataset: Dataset) -> ItemNames:
    return ItemNames(dataset)


@given(ids=st.lists(VALUES, max_size=9) | st.lists(st.integers(-9, 80), max_size=9))
@settings(max_examples=60)
def test_ids_are_found_as_the_dataset_finds_them(
    ids: list[int | float | str], names: ItemNames, dataset: Dataset
) -> None:
    found = names.find(ids)
    assert found.dtype == np.int32
    assert found.tolist() == dataset.find_items(ids).tolist()
