"""What the catalog command says and refuses; a refused command changes nothing."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from catalogs import halved
from models import NOWHERE
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import flags, refused, small

from eqids import catalog as command, train
from eqids.checkpoints import read_manifest, resolve, steps
from eqids.cli import run
from eqids.data import Dataset, open_dataset
from eqids.data.catalog.as_of import as_of
from eqids.data.catalog.lineage import Change
from eqids.data.catalog.living_catalog import Catalog
from eqids.data.catalog.revise import catalog_of, revise
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.inference.open import open_checkpoint


def items(path: Path, *rows: str) -> list[str]:
    path.write_text("\n".join(["item_id", *rows, ""]))
    return ["--items", str(path)]


def rows_of(said: str) -> dict[str, list[str]]:
    """The numbers of the table of metrics."""
    lines = (line.split() for line in said.splitlines())
    return {line[0]: line[1:] for line in lines if line[:1] in (["before"], ["after"])}


def test_known_items_may_be_skipped(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    vectors = np.eye(3, 4, dtype=np.float32)
    np.save(tmp_path / "v.npy", vectors)
    file = items(tmp_path / "new.csv", "item 1", "x", "item 2")
    file += ["--vectors", str(tmp_path / "v.npy"), "--skip_known"]
    command.main(["add", *flags(copy, *file)])
    assert "items 1 added (2 items left out)" in capsys.readouterr().out
    catalog = catalog_of(open_dataset(copy.path))
    np.testing.assert_array_equal(catalog.vectors[catalog.rows(["x"])], vectors[1:2])
    command.main(["add", *flags(copy, *file)])
    assert "version 2 stays as it is (3 items left out)" in capsys.readouterr().out
    command.main(["retire", *flags(copy, "--ids", "item 3")])
    gone = items(tmp_path / "gone.csv", "item 3", "nobody", "item 4")
    said = refused(
        command.main, ["retire", *flags(copy, *gone, "--skip_known")], capsys
    )
    assert "'nobody' is not in the catalog" in said
    command.main(["retire", *flags(copy, *gone, "--skip_known", "--skip_unknown")])
    assert "items 1 retired (2 items left out)" in capsys.readouterr().out
    frame = open_dataset(copy.path).items()
    assert set(frame["item"][frame["retired"]]) == {"item 3", "item 4"}


def test_new_items_without_vectors_are_counted(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    np.save(tmp_path / "v.npy", np.array([[1, 0, 0, 0], [0] * 4, [0] * 4], np.float32))
    file = items(tmp_path / "new.csv", "x", "y", "z")
    command.main(["add", *flags(copy, *file, "--vectors", str(tmp_path / "v.npy"))])
    dataset = open_dataset(copy.path)
    clusters = np.unique(dataset.slot_of(["y", "z"]) // dataset.info.cluster_size)
    said = capsys.readouterr().out
    assert "2 new items have neither --vectors nor similar items" in said
    assert f"to cluster{'s' * (len(clusters) > 1)} " in said
    assert said.split("cluster")[-1].strip("s \n") == ", ".join(map(str, clusters))


def test_outputs_are_looked_at_before_anything_changes(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (another,) = {*steps(finished)} - {int(resolve(finished).name)}
    name = str(another)
    shutil.copytree(finished / name, tmp_path / "other" / name)
    cases = {
        "file": "is not a folder that can be written to",
        "file/below": "is not a folder that can be written to",
        "other": f"holds step {name} of another version of the catalog",
    }
    given = ["--ids", "item 4", "--checkpoint", str(finished), "--output"]
    for name, said in cases.items():
        tokens = ["retire", *flags(copy, *given, str(tmp_path / name))]
        with pytest.raises(SystemExit):
            run(functools.partial(command.main, tokens))
        shown = capsys.readouterr()
        assert said in shown.err and not shown.out
        assert open_dataset(copy.path).info.catalog_version == 1
    # Steps of one run may be migrated into one folder.
    revise(copy, *catalog_of(copy).retire(["item 4"]))
    out = ["--output", str(tmp_path / "next")]
    both = [finished / str(step) for step in steps(finished)]
    for path in both:
        command.main(["migrate", *flags(copy, "--checkpoint", str(path), *out)])
    assert steps(tmp_path / "next") == steps(finished)
    said = capsys.readouterr().out
    assert f"--checkpoint_dir {tmp_path / 'next'}" in said
    assert f"--load_checkpoint {tmp_path / 'next' / both[-1].name}" in said


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_before_and_after_are_of_the_same_users(
    later: bool, dataset: Dataset, copy: Dataset, finished: Path, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    """Some targets are retired, and some that were are valid again."""
    first = catalog_of(copy)
    at = copy.offsets[:-1] + np.maximum(copy.valid_at, 0)
    target = first.items[np.searchsorted(first.slot, copy.slots[at])]
    gone = target[np.flatnonzero(copy.valid_at > 0)[0]]
    stay = (copy.valid_at > 0) & (target != gone)
    out = ["--checkpoint", str(finished), "--output", str(tmp_path / "next")]
    if later:
        command.main(["retire", *flags(copy, "--ids", gone)])
        command.main(["migrate", *flags(copy, *out)])
    else:
        command.main(["retire", *flags(copy, "--ids", gone, *out)])
    found = rows_of(capsys.readouterr().out)
    assert found["before"][0] == found["after"][0] == str(stay.sum())
    old = open_checkpoint(finished, dataset.path, None, NOWHERE)
    kept = np.where(stay, dataset.valid_at, -1).astype(np.int32)
    ranker = make_ranker(old.config.recipe.seq_len, old.dtype, NOWHERE)
    some = replace(dataset, valid_at=kept)
    expected = evaluate(old.model, some, "valid", ranker)
    assert float(found["before"][1]) == round(expected["filtered"]["ndcg@10"], 4)
    if not later:
        return
    # Back again: those users count in the checkpoint, and not in the comparison.
    back = items(tmp_path / "back.csv", gone)
    more = ["--checkpoint", str(tmp_path / "next"), "--output", str(tmp_path / "b")]
    command.main(["add", *flags(copy, *back, *more)])
    found = rows_of(capsys.readouterr().out)
    assert found["before"][0] == found["after"][0] == str(stay.sum())
    everyone = read_manifest(resolve(tmp_path / "b")).meta["validation"]["num_users"]
    assert everyone == (copy.valid_at > 0).sum() > stay.sum()


def test_an_earlier_version_is_the_dataset_that_it_was(
    dataset: Dataset, copy: Dataset
) -> None:
    versions, now = [dataset], copy
    changes: list[Callable[[Catalog], tuple[Catalog, Change]]] = [
        lambda catalog: catalog.retire(["item 3"]),
        lambda catalog: catalog.add(["x", "y"]),
        lambda catalog: catalog.rebalance(0.4),
        lambda catalog: halved(catalog, 0),
        lambda catalog: catalog.grow(2),
    ]
    for change in changes:
        now = revise(now, *change(catalog_of(now)))
        versions.append(now)
    target = dataset.slots[dataset.offsets[:-1] + np.maximum(dataset.valid_at, 0)]
    here = target != dataset.slot_of(["item 3"])
    for version, then in enumerate(versions, start=1):
        found = as_of(now, version)
        for name in ("slots", "times", "offsets", "train_length", "item_valid",
                     "item_counts", "item_vectors"):  # fmt: skip
            ours, theirs = getattr(found, name), getattr(then, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        for name, array in vars(then.successors).items():
            np.testing.assert_array_equal(getattr(found.successors, name), array)
        kept = np.where(here, then.valid_at, -1)
        np.testing.assert_array_equal(found.valid_at, kept)
        for name in ("catalog_id", "catalog_version", "num_clusters", "num_items"):
            assert getattr(found.info, name) == getattr(then.info, name)


def test_events_of_later_items_are_left_out_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    first = [("a", 1), ("a", 2), ("b", 2), ("b", 3), ("b", 1)]
    more = [("a", 9), ("a", 3), ("a", 8), ("b", 8), ("b", 2), ("c", 9), ("c", 1)]
    (tmp_path / "b").mkdir()
    files = []
    for name, plays in (("1.csv", first), ("2.csv", first + more)):
        timed = [(user, item, time) for time, (user, item) in enumerate(plays)]
        files.append(f"csv:{write_csv(tmp_path / name, timed)}")
    old = prepared(tmp_path, files[0], vector_width=2, num_clusters=2)
    new = prepared(tmp_path / "b", files[1], catalog=old.path)
    found = as_of(new, 1)
    item_of = dict(old.items()[["slot", "item"]].itertuples(index=False))
    histories = [[item_of[slot] for slot in found.history(user)] for user in range(3)]
    assert histories == [[1, 2, 3], [2, 3, 1, 2], [1]]
    # a's targets are 3 and 8, b's 8 and 2, of c's the one at the start has no history.
    assert new.valid_at.tolist() == [3, 3, -1]
    assert found.valid_at.tolist() == [2, -1, -1]
    assert found.test_at.tolist() == [-1, 3, -1]
    assert found.train_length.tolist() == [2, 3, 1]
    assert (found.times == [0, 1, 6, 2, 3, 4, 9, 11]).all()


def test_a_catalog_of_retired_items_is_not_trained_on(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    everything = copy.items()["item"].tolist()
    revise(copy, *catalog_of(copy).retire(everything))
    said = refused(train.main, small(copy.path, tmp_path / "run"), capsys)
    assert "all items in training events" in said and "are retired" in said
    assert not (tmp_path / "run").exists()
