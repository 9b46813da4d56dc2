"""A dataset folder comes back as it was written, or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eqids.config import UserError
from eqids.data import (
    ClustersInfo,
    Counts,
    Dataset,
    DatasetInfo,
    Protocol,
    open_dataset,
    write_dataset,
)
from eqids.data.info import render_info

FILES = [
    "dataset.json",
    "items.parquet",
    "users.parquet",
    "histories.safetensors",
    "clusters.safetensors",
]


def _content() -> dict[str, Any]:
    """Two users and three items in two clusters of two places; slot 2 is empty."""
    return {
        "info": DatasetInfo(
            source="csv:plays.csv",
            num_users=2,
            num_items=3,
            num_events=7,
            num_clusters=2,
            cluster_size=2,
            protocol=Protocol("leave_one_out", "file_order", "dropped"),
            counts=Counts(7, users_valid=2, users_test=2),
            clusters=ClustersInfo("random", 4, 0, 1, 2, 0.5),
        ),
        "histories": {
            "slots": np.array([0, 1, 3, 0, 1, 1, 0], np.int32),
            "times": np.array([1, 2, 3, 4, 1, 2, 2], np.int64),
            "offsets": np.array([0, 4, 7], np.int64),
        },
        "users": pa.table(
            {
                "user": ["ann", "bob"],
                "train_length": np.array([2, 1], np.int32),
                "valid_at": np.array([2, 1], np.int32),
                "test_at": np.array([3, 2], np.int32),
            }
        ),
        "items": pa.table(
            {
                "item": [70, 80, 90],
                "slot": np.array([3, 0, 1], np.int32),
                "title": ["seven", "eight", "90"],
                "text": ["seven, odd", "eight, even", ""],
                "count": np.array([0, 1, 2], np.int64),
            }
        ),
        "item_vectors": np.arange(12, dtype=np.float32).reshape(3, 4),
    }


def _write(path: Path, **changes: Any) -> Dataset:
    return write_dataset(path, **{**_content(), **changes})


def test_a_dataset_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written, opened = _write(tmp_path / "d"), open_dataset(tmp_path / "d")
    assert opened.info == written.info
    content = _content()
    for name, array in content["histories"].items():
        np.testing.assert_array_equal(getattr(opened, name), array)
        assert getattr(opened, name).dtype == array.dtype
    assert opened.history(0).tolist() == [0, 1, 3, 0]
    assert opened.history(1).tolist() == [1, 1, 0]
    assert opened.valid_at.tolist() == [2, 1] and opened.test_at.tolist() == [3, 2]
    assert opened.item_valid.tolist() == [[True, True], [False, True]]
    assert opened.item_counts.tolist() == [[1, 2], [0, 0]]
    vectors = content["item_vectors"]
    np.testing.assert_array_equal(
        opened.item_vectors, [[vectors[1], vectors[2]], [vectors[0] * 0, vectors[0]]]
    )
    items, users = opened.items(), opened.users()
    assert items["slot"].tolist() == [0, 1, 3]
    assert items["item"].tolist() == [80, 90, 70]
    assert items["title"].tolist() == ["eight", "90", "seven"]
    assert users["user"].tolist() == ["ann", "bob"]
    assert users["offset"].tolist() == [0, 4] and users["length"].tolist() == [4, 3]


def test_ids_are_found_as_given_and_as_text(tmp_path: Path) -> None:
    dataset = _write(tmp_path / "d")
    assert dataset.slot_of([70, "80", np.int64(90)]).tolist() == [3, 0, 1]
    assert dataset.user_index("bob") == 1
    with pytest.raises(UserError, match="item 71 is not in the catalog"):
        dataset.slot_of([70, 71])
    with pytest.raises(UserError, match="item '7' is not in the catalog"):
        dataset.slot_of(["7"])
    with pytest.raises(UserError, match="user 'eve' is not among the users"):
        dataset.user_index("eve")


def test_a_history_without_times(tmp_path: Path) -> None:
    histories = _content()["histories"]
    del histories["times"]
    assert _write(tmp_path / "d", histories=histories).times is None


@pytest.mark.parametrize("name", FILES)
def test_a_deleted_file_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "d")
    (tmp_path / "d" / name).unlink()
    with pytest.raises(
        UserError, match=f"{name} is missing.*prepare it again from its source"
    ):
        open_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "d")
    file = tmp_path / "d" / name
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()]:
        for changed in (whole[place] ^ 1, whole[place] ^ 0x80, 32):
            if changed == whole[place]:
                continue
            file.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
            with pytest.raises(UserError, match=name):
                open_dataset(tmp_path / "d")
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=name):
            open_dataset(tmp_path / "d")
    file.write_bytes(whole)
    assert open_dataset(tmp_path / "d").num_users == 2


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    """The message names the command that makes the dataset anew."""
    path = tmp_path / "d e"
    old = render_info(replace(_write(path).info, format_version=2))
    old = old.replace('"cluster_size"', '"room"')
    (path / "dataset.json").write_text(old)
    with pytest.raises(UserError) as said:
        open_dataset(path)
    assert str(said.value) == (
        f"{path}/dataset.json: format_version is 2, wanted 4; make the dataset anew "
        "with the flags it was made with: python -m eqids.prepare --source "
        f"csv:plays.csv --data_dir '{path}' --overwrite"
    )
    (path / "words-0123456789ab.safetensors").touch()
    assert _write(path, overwrite=True).info.format_version == 4
    assert not list(path.glob("words-*"))


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    dataset = _write(tmp_path / "d")
    path = tmp_path / "d" / "dataset.json"
    path.write_text(render_info(replace(dataset.info, files={})))
    with pytest.raises(UserError, match="items.parquet was changed"):
        open_dataset(tmp_path / "d")
    path.write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not a JSON object"):
        open_dataset(tmp_path / "d")


def test_a_folder_that_does_not_exist_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m eqids\.prepare --data_dir .*none"):
        open_dataset(tmp_path / "none")


def _changed(part: str, name: str, values: list) -> dict[str, Any]:
    content = _content()[part]
    if part == "histories":
        return {part: {**content, name: np.array(values, content[name].dtype)}}
    position = content.column_names.index(name)
    array = pa.array(values, content[name].type)
    return {part: content.set_column(position, name, array)}


@pytest.mark.parametrize(
    ("part", "name", "values", "message"),
    [
        ("histories", "slots", [0, 1, 4, 0, 1, 1, 0],
         r"histories\.safetensors, row 2: slot is 4, wanted 0 to 3"),
        ("histories", "slots", [0, 1, 3, -1, 1, 1, 0],
         r"histories\.safetensors, row 3: slot is -1"),
        ("histories", "slots", [0, 1, 3, 0, 2, 1, 0],
         r"histories\.safetensors, row 4: slot 2 is a place that holds no item"),
        ("histories", "times", [1, 2, 3, 4, 5, 2, 6],
         r"histories\.safetensors, row 5: time 2 is before"),
        ("histories", "offsets", [0, 4, 6], r"offsets do not rise from 0 to 7"),
        ("histories", "offsets", [0, 7, 7], r"offsets do not rise from 0 to 7"),
        ("users", "train_length", [5, 1],
         r"users\.parquet, row 0: train_length is 5, wanted 0 to 4"),
        ("users", "valid_at", [2, 0], r"users\.parquet, row 1: valid_at is 0"),
        ("users", "test_at", [4, 2],
         r"users\.parquet, row 0: test_at is 4, wanted -1 or 2 to 3"),
        ("users", "valid_at", [3, 1], r"row 0: valid_at 3 is not before test_at 3"),
        ("items", "slot", [3, 0, 0], r"items\.parquet, row 1: slot 0 .* given before"),
    ],
)  # fmt: skip
def test_content_that_contradicts_itself_is_not_written(
    tmp_path: Path, part: str, name: str, values: list, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _write(tmp_path / "d", **_changed(part, name, values))
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
    first = _write(tmp_path / "d")
    with pytest.raises(UserError, match="exists already: add --overwrite"):
        _write(tmp_path / "d")
    items = _changed("items", "title", ["a", "b", "c"])
    second = _write(tmp_path / "d", **items, overwrite=True)
    assert second.items()["title"].tolist() == ["b", "c", "a"]
    assert second.info.dataset_hash == first.info.dataset_hash
    assert [file.name for file in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    _write(tmp_path / "d")
    (tmp_path / "d" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis\.tex'"):
        _write(tmp_path / "d", overwrite=True)
    assert (tmp_path / "d" / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a folder that can be written to"):
        _write(tmp_path / "file" / "d")
    with pytest.raises(UserError, match="file is a file, wanted a folder"):
        _write(tmp_path / "file", overwrite=True)
    if Path("/proc").exists():
        with pytest.raises(UserError, match="/proc is not a folder that can be"):
            _write(Path("/proc/eqids/d"))


def test_hashes_follow_their_contents(tmp_path: Path) -> None:
    first = _write(tmp_path / "a").info
    other_ids = _write(tmp_path / "b", **_changed("items", "item", [70, 80, 91])).info
    assert other_ids.catalog_id != first.catalog_id
    slots = [0, 1, 3, 1, 1, 1, 0]
    other_events = _write(tmp_path / "c", **_changed("histories", "slots", slots)).info
    assert other_events.catalog_id == first.catalog_id
    assert other_events.dataset_hash != first.dataset_hash
    text = _content()["items"]
    text = text.set_column(0, "item", pa.array(["70", "80", "90"]))
    assert _write(tmp_path / "e", items=text).info.catalog_id != first.catalog_id


def test_a_moved_folder_stays_whole(tmp_path: Path) -> None:
    _write(tmp_path / "d")
    shutil.move(tmp_path / "d", tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere").num_slots == 4
