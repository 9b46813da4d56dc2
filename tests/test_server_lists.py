"""Lists of ids in requests: read once, and the same items as `recommend` takes."""

import json

import numpy as np
import pytest
from conftest import make_dataset
from msgspec import UNSET, Raw

from eqids.data import Dataset
from eqids.inference.server.http_errors import HttpError
from eqids.inference.server.item_names import ItemNames
from eqids.inference.server.sent_lists import SentLists


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("lists") / "data"
    return make_dataset(folder, num_items=40, num_clusters=5, cluster_size=9)


@pytest.fixture
def lists(dataset: Dataset) -> SentLists:
    return SentLists(ItemNames(dataset), dataset.item_valid)


def sent(*ids: object) -> Raw:
    return Raw(json.dumps(ids).encode())


# With 600 ids that no item has, a list is long enough to be kept.
@pytest.mark.parametrize("padding", [0, 600])
def test_a_list_is_its_items(padding: int, lists: SentLists, dataset: Dataset) -> None:
    ids = ["item 3", "item 7", "item 3", *(f"none {i}" for i in range(padding))]
    for _ in range(2):
        found = lists.read(sent(*ids), "allow")
        assert found is not None
        wanted = dataset.find_items(["item 3", "item 7"])
        assert found.slots.tolist() == [*wanted.tolist(), wanted[0]]
        assert found.num_unknown == padding
        allowed = np.zeros(dataset.num_slots, np.bool_)
        allowed[wanted] = True
        allowed &= dataset.item_valid.reshape(-1)
        assert (found.allowed.allowed.reshape(-1) == allowed).all()
        others = dataset.item_valid.reshape(-1) & ~allowed
        assert (found.others.allowed.reshape(-1) == others).all()


def test_the_same_bytes_are_read_once(lists: SentLists) -> None:
    long = ["item 3", *range(600)]
    found = lists.read(sent(*long), "allow")
    assert found is not None
    again = lists.read(sent(*long), "deny")
    assert again is found and again.allowed is found.allowed
    assert lists.read(sent(*long, "item 4"), "allow") is not found


def test_only_the_last_lists_are_kept(lists: SentLists) -> None:
    first = lists.read(sent("item 3", *range(600)), "allow")
    for number in range(64):
        lists.read(sent(f"none {number}", *range(600)), "allow")
    assert lists.read(sent("item 3", *range(600)), "allow") is not first


def test_a_request_may_have_no_list(lists: SentLists) -> None:
    assert lists.read(UNSET, "allow") is None
    assert lists.read(Raw(b"null"), "allow") is None
    empty = lists.read(Raw(b"[]"), "allow")
    assert empty is not None and not len(empty.slots)


@pytest.mark.parametrize("many", [[], list(range(600))])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "requests[2].deny: expected array"),
        ('[1, [2], MORE"x"]', "requests[2].deny[1]: expected"),
        ("[true, MORE2]", "requests[2].deny[0]: expected"),
        ("[null, MORE2]", "requests[2].deny[0]: expected"),
        ('["\udcff", MORE1]', "requests[2].deny is not UTF-8"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(
    text: str, words: str, many: list[int], lists: SentLists
) -> None:
    more = "".join(f"{one}, " for one in many)
    body = text.replace("MORE", more).encode("utf-8", "surrogateescape")
    for _ in range(2):
        with pytest.raises(HttpError) as caught:
            lists.read(Raw(body), "requests[2].deny")
        assert caught.value.status == 400
        assert str(caught.value).startswith(words)
