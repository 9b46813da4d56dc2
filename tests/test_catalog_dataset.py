"""A dataset whose catalog has changed: what is read, trained on and evaluated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import halved
from plays import item_histories, prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import prepare as prepare_command
from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.data.catalog.named_items import read_items, read_vectors
from eqids.data.catalog.revise import catalog_of, revise
from eqids.data.ids import Ids
from eqids.data.info import render_info
from eqids.fit.baselines import markov, popularity
from eqids.fit.evaluation import chunks, targets_of
from eqids.io.digests import file_sha256


def retire(dataset: Dataset, *items: str) -> Dataset:
    return revise(dataset, *catalog_of(dataset).retire(items))


def names(dataset: Dataset) -> dict[int, str]:
    return dict(dataset.items()[["slot", "item"]].itertuples(index=False))


def test_histories_mean_the_same_after_every_change(copy: Dataset) -> None:
    before, ids = item_histories(copy), {copy.info.catalog_id}
    dataset = retire(copy, "item 3", "item 4")
    named = pa.table({"item": ["new"], "title": ["New"], "text": ["a new one"]})
    added = catalog_of(dataset).add(["new"], similar=[["item 5"]])
    dataset = revise(dataset, *added, named)
    for change in (
        lambda catalog: catalog.rebalance(0.4),
        lambda catalog: catalog.grow(2),
        lambda catalog: halved(catalog, 0),
    ):
        dataset = revise(dataset, *change(catalog_of(dataset)))
        ids.add(dataset.info.catalog_id)
        assert item_histories(dataset) == before
    assert len(ids) == 4 and dataset.lineage.version == 6
    assert dataset.info.catalog_version == 6
    frame = dataset.items().set_index("item")
    assert frame.loc["new", ["title", "text"]].tolist() == ["New", "a new one"]
    assert set(frame.index[frame["retired"]]) == {"item 3", "item 4"}
    assert not (dataset.item_valid & dataset.retired).any()
    assert dataset.slot_of(["item 3"]) in np.flatnonzero(dataset.retired)


def test_retired_items_are_read_and_never_asked_for(copy: Dataset) -> None:
    config = BatchConfig(seq_len=16, batch_size=8)
    old = TrainingBatches(copy, config).batch(0)
    gone = names(copy)[int(old.target[old.target >= 0][0])]
    dataset = retire(copy, gone)
    slot = int(dataset.slot_of([gone])[0])
    new = TrainingBatches(dataset, config).batch(0)
    np.testing.assert_array_equal(new.items, old.items)
    expected = np.where(old.target == slot, -1, old.target)
    np.testing.assert_array_equal(new.target, expected)
    assert (old.target == slot).any()


def test_users_whose_target_is_retired_are_left_out_and_counted(copy: Dataset) -> None:
    users, at = targets_of(copy, "test")
    targets = copy.slots[copy.offsets[users] + at]
    gone = names(copy)[int(np.bincount(targets).argmax())]
    dataset = retire(copy, gone)
    slot = int(dataset.slot_of([gone])[0])
    left = users[targets != slot]
    assert targets_of(dataset, "test")[0].tolist() == left.tolist()
    assert dataset.targets_retired[1] == len(users) - len(left) > 0
    for chunk in chunks(dataset, "test"):
        for scorer in (popularity(dataset), markov(dataset)):
            assert (scorer(chunk)[:, slot] == -np.inf).all()
    back = revise(dataset, *catalog_of(dataset).add([gone]))
    assert targets_of(back, "test")[0].tolist() == users.tolist()
    assert back.targets_retired == (0, 0)


def test_a_damaged_lineage_is_found(copy: Dataset) -> None:
    dataset = retire(copy, "item 1")
    file = dataset.path / "lineage.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="lineage.safetensors was changed"):
        open_dataset(dataset.path)
    file.unlink()
    with pytest.raises(UserError, match="lineage.safetensors is missing"):
        open_dataset(dataset.path)


def test_a_lineage_that_leads_elsewhere_is_found(copy: Dataset) -> None:
    from safetensors.numpy import save_file

    dataset = retire(copy, "item 1")
    file = dataset.path / "lineage.safetensors"
    arrays = dataset.lineage.to_arrays()
    arrays["2/retired"] = arrays["2/retired"] * 0
    save_file(arrays, file)
    files = {**dataset.info.files, "lineage.safetensors": file_sha256(file)}
    info = replace(dataset.info, files=files)
    (dataset.path / "dataset.json").write_text(render_info(info))
    with pytest.raises(UserError, match="does not lead to the items"):
        open_dataset(dataset.path)


def rows(items: range, num_events: int, seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    users, chosen = rng.integers(0, 12, num_events), rng.choice(items, num_events)
    return [
        (f"u{u}", int(i), t) for t, (u, i) in enumerate(zip(users, chosen, strict=True))
    ]


def test_tomorrow_is_prepared_with_yesterdays_places(tmp_path: Path) -> None:
    yesterday = write_csv(tmp_path / "a.csv", rows(range(20), 300, 0))
    old = prepared(tmp_path, f"csv:{yesterday}", vector_width=4)
    same = write_csv(tmp_path / "b.csv", rows(range(3, 18), 200, 1))
    more = write_csv(tmp_path / "c.csv", rows(range(3, 25), 300, 2))
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    today = prepared(tmp_path / "b", f"csv:{same}", catalog=old.path)
    assert today.info.catalog_id == old.info.catalog_id
    assert names(today) == names(old)
    np.testing.assert_array_equal(today.item_vectors, old.item_vectors)
    grown = prepared(tmp_path / "c", f"csv:{more}", catalog=old.path)
    assert grown.lineage.catalog_ids == (old.info.catalog_id,)
    (change,) = grown.lineage.changes
    now = {item: slot for slot, item in names(grown).items()}
    moved = set(change.left.tolist())
    for slot, item in names(old).items():
        assert (now[item] == slot) != (slot in moved)
    assert set(now) == set(range(25)) and len(change.added) == 5
    histories = item_histories(grown)
    assert sum(map(len, histories.values())) == grown.info.num_events == 300
    training = np.concatenate(
        [grown.history(u)[:n] for u, n in enumerate(grown.train_length)]
    )
    counts = np.bincount(training, minlength=grown.num_slots)
    np.testing.assert_array_equal(grown.item_counts.reshape(-1), counts)
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match=r"item 20 is not in the catalog .* 4 others"):
        prepared(tmp_path / "e", f"csv:{more}", catalog=old.path,
                 unknown_items="refuse")  # fmt: skip
    word = write_csv(tmp_path / "w.csv", [*rows(range(5), 60, 0), ("u1", "Heat", 99)])
    with pytest.raises(UserError, match="Heat.* is no id of the catalog's type, int64"):
        prepared(tmp_path / "e", f"csv:{word}", catalog=old.path)


def test_yesterday_is_not_written_over(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    today = write_csv(tmp_path / "a.csv", [("u", "item 1", 1), ("u", "item 2", 2)])
    (tmp_path / "link").symlink_to(copy.path)
    where = ["--source", f"csv:{today}", "--catalog", str(copy.path)]
    for folder in (copy.path, tmp_path / "link", copy.path / ".." / "d"):
        flags = [*where, "--data_dir", str(folder), "--overwrite"]
        said = refused(prepare_command.main, flags, capsys)
        assert said.startswith(f"error: --data_dir {folder} is --catalog itself")
    assert item_histories(open_dataset(copy.path)) == item_histories(copy)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"clusters": "random"}, "--clusters is for new catalogs"),
        ({"num_clusters": 3}, "--num_clusters is for new catalogs"),
        ({"cluster_vectors": "words"}, "--cluster_vectors is for new catalogs"),
        ({"spherical": True}, "--spherical is for new catalogs"),
        ({"vector_width": 8}, "--vector_width is for new catalogs"),
        ({"free_share": 0.1}, "--free_share is for new catalogs"),
        ({"catalog": Path("nowhere")}, "--catalog nowhere is not a folder that exists"),
    ],
)
def test_what_a_catalog_decides_is_not_asked_for(
    flags: dict[str, Any], said: str, dataset: Dataset
) -> None:
    with pytest.raises(UserError, match=said):
        PrepareConfig(data_dir=Path("d"), **{"catalog": dataset.path, **flags})


def test_what_became_of_the_catalog_is_said(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    events = rows(range(20), 300, 0)
    more = events + [(f"u{n % 9}", 20 + n % 5, 300 + n) for n in range(50)]
    less = [event for event in events if event[0] not in ("u1", "u2")][3:]
    found, next_ = {}, {}
    given = ["--vector_width", "4", "--free_share", "0"]
    for name, those in {
        "old": events,
        "same": events,
        "more": more,
        "less": less,
    }.items():
        file = write_csv(tmp_path / f"{name}.csv", those)
        where = ["--source", f"csv:{file}", "--data_dir", str(tmp_path / name)]
        prepare_command.main([*where, *given])
        found[name] = capsys.readouterr().out
        next_[name] = found[name].split("next:\n")[1].split("\n")
        given = ["--catalog", str(tmp_path / "old")]
    old, new = (open_dataset(tmp_path / name) for name in ("old", "more"))
    (change,) = new.lineage.changes
    assert len(change.left) > 0
    assert (
        f"5 items are new to the catalog, and {len(change.left)} items got another "
        "slot: it is at version 2" in found["more"]
    )
    assert "0 items are new to the catalog: it is at version 1" in found["same"]
    for name, lost in {"old": "", "same": "", "more": "", "less": "2 are not"}.items():
        assert ("warning: of the 12 users" in found[name]) == bool(lost)
        assert lost in found[name]
    dropped = {user for user, _, _ in events[:3]} - {"u1", "u2"}
    assert f"source and {len(dropped)} have fewer events" in found["less"]
    for name in ("same", "more"):
        command = "python -m eqids.train --continue_from RUN --data_dir"
        assert next_[name][0].strip() == f"{command} {tmp_path / name}"
    assert old.info.catalog_id in new.lineage.catalog_ids


def test_one_unknown_item_has_no_others(tmp_path: Path) -> None:
    old = prepared(
        tmp_path, f"csv:{write_csv(tmp_path / 'a.csv', rows(range(9), 90, 0))}"
    )
    (tmp_path / "b").mkdir()
    more = write_csv(tmp_path / "b.csv", [*rows(range(9), 90, 0), ("u1", 77, 99)])
    with pytest.raises(UserError, match=r"^item 77 is not in the catalog of \S+; add"):
        prepared(tmp_path / "b", f"csv:{more}", catalog=old.path,
                 unknown_items="refuse")  # fmt: skip


def test_what_is_said_of_new_items_comes_from_training_alone(tmp_path: Path) -> None:
    """Another item in a target's place changes no place and no vector."""
    yesterday = write_csv(tmp_path / "a.csv", rows(range(20), 300, 0))
    old = prepared(tmp_path, f"csv:{yesterday}", vector_width=4)
    events = rows(range(25), 300, 2)
    last = {user: n for n, (user, _, _) in enumerate(events)}
    others = list(events)
    for n in last.values():
        others[n] = (events[n][0], 24 - events[n][1] % 5, events[n][2])
    found = []
    for name, these in (("b", events), ("c", others)):
        (tmp_path / name).mkdir()
        file = write_csv(tmp_path / f"{name}.csv", these)
        found.append(prepared(tmp_path / name, f"csv:{file}", catalog=old.path))
    np.testing.assert_array_equal(found[0].item_vectors, found[1].item_vectors)
    assert names(found[0]) == names(found[1])


KNOWN = Ids(pa.chunked_array([pa.array([1, 2, 3])]))


def test_files_of_items(tmp_path: Path) -> None:
    frame = pa.table(
        {
            "id": [31, 32, 33],
            "name": ["Heat", None, "Alien"],
            "text": ["Heat, crime", "plain", None],
            "similar": [[1, 2], [], None],
        }
    )
    pq.write_table(frame, tmp_path / "new.parquet")
    found = read_items(tmp_path / "new.parquet", KNOWN, "id", title="name")
    assert found.ids.tolist() == [31, 32, 33]
    assert found.table["title"].to_pylist() == ["Heat", "32", "Alien"]
    assert found.table["text"].to_pylist() == ["Heat, crime", "plain", "Alien"]
    assert found.similar is not None
    rows = found.similar.rows(np.arange(3), KNOWN)
    assert [row.tolist() for row in rows] == [[0, 1], [], []]
    (tmp_path / "new.csv").write_text("id;similar\n7;1, 2 3\n8;\n")
    found = read_items(tmp_path / "new.csv", KNOWN, "id")
    assert found.ids.tolist() == [7, 8] and found.similar is not None
    rows = found.similar.rows(np.arange(2), KNOWN)
    assert [row.tolist() for row in rows] == [[0, 1, 2], []]
    assert found.table["text"].to_pylist() == ["", ""]
    (tmp_path / "bad.csv").write_text("id\n07\n")
    with pytest.raises(UserError, match="column 'id' is '07' in row 1, wanted ids of"):
        read_items(tmp_path / "bad.csv", KNOWN, "id")
    np.save(tmp_path / "v.npy", np.full((2, 4), np.nan))
    with pytest.raises(UserError, match="values that are not finite"):
        read_vectors(tmp_path / "v.npy", tmp_path, np.arange(2), 4)


def test_one_similar_item_a_row_needs_no_list(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7, 8], "similar": [3, None]}), tmp_path / "a.pq")
    found = read_items(tmp_path / "a.pq", KNOWN, "id").similar
    assert found is not None
    rows = found.rows(np.arange(2), KNOWN)
    assert [row.tolist() for row in rows] == [[2], []]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"text": [[["a"]], [["b"]]]}, "column 'text' is array"),
        ({"id": [[1], [2]]}, "column 'id' is array"),
        ({"similar": [[[1]], None]}, "similar items are list"),
    ],
)
def test_a_column_of_lists_in_the_wrong_place_is_named(
    column: dict[str, list], said: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"id": [7, 8], **column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"a.parquet: {said}"):
        read_items(tmp_path / "a.parquet", KNOWN, "id")


def test_what_is_no_file_of_vectors_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    with pytest.raises(UserError, match="empty.npy is no .npy file"):
        read_vectors(tmp_path / "empty.npy", tmp_path, np.arange(2), 4)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, vectors=np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="archive.npy is an archive"):
        read_vectors(tmp_path / "archive.npy", tmp_path, np.arange(2), 4)
