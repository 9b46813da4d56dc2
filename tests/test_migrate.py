"""A checkpoint follows its catalog: the same scores, and training goes on."""

import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TOLERANCE, make_dataset
from models import NOWHERE
from pytest import CaptureFixture
from runs import flags, refused, small

import eqids
from eqids import catalog as door, train
from eqids.checkpoints import latest_step, read_manifest, resolve
from eqids.config import UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import query_batch
from eqids.data.catalog.revise import catalog_of, revise
from eqids.inference.open import open_checkpoint
from eqids.migrate.state_migration import migrate, migrate_model
from eqids.model import Batch, EqIDs


def new_items(folder: Path, text: str) -> list[str]:
    (folder / "new.csv").write_text(text)
    return ["--items", str(folder / "new.csv")]


def log_probs(model: EqIDs, dataset: Dataset) -> dict[str, np.ndarray]:
    """By item id, for a few users' histories of items that they all know."""
    histories = [dataset.history(user)[:8] for user in range(6)]
    batch = Batch.of(query_batch(histories, [None] * 6, 8))
    last = np.array([len(h) for h in histories]) - 1
    query = model.queries(batch)[jnp.arange(6), last]
    scores = np.asarray(model.softmax.log_probs(query))
    frame = dataset.items()
    pairs = frame.loc[~frame["retired"], ["item", "slot"]]
    return {item: scores[:, slot] for item, slot in pairs.itertuples(index=False)}


def changed(dataset: Dataset) -> Dataset:
    """Three versions on: items added, retired, and clusters divided."""
    dataset = revise(dataset, *catalog_of(dataset).retire(["item 3", "item 8"]))
    similar = [["item 5", "item 9"], ["item 6"]]
    dataset = revise(dataset, *catalog_of(dataset).add(["x", "y"], similar=similar))
    return revise(dataset, *catalog_of(dataset).rebalance(0.4))


def test_a_migrated_checkpoint_gives_the_scores_of_the_migrated_model(
    copy: Dataset, finished: Path, tmp_path: Path
) -> None:
    old = open_checkpoint(finished, copy.path, None, NOWHERE).model
    before = log_probs(old, copy)
    dataset = changed(copy)
    path = migrate(finished, dataset).save(tmp_path / "next")
    assert path == tmp_path / "next" / resolve(finished).name
    opened = open_checkpoint(path, dataset.path, None, NOWHERE)
    found = log_probs(opened.model, dataset)
    expected = log_probs(migrate_model(old, dataset.lineage, 1), dataset)
    assert found.keys() == expected.keys() == before.keys() - {"item 3", "item 8"} | {
        "x", "y"
    }  # fmt: skip
    for item, scores in found.items():
        np.testing.assert_array_equal(scores, expected[item])
    total = sum(np.exp(scores.astype(np.float64)) for scores in found.values())
    np.testing.assert_allclose(total, 1, atol=TOLERANCE["float32"])
    recommender = eqids.load(path, dataset.path)
    shown = recommender.recommend([["item 3", "item 1"]], k=100, filter_seen=False)
    assert set(shown["item"]) == set(found)


def test_the_optimizer_follows(copy: Dataset, finished: Path) -> None:
    stored = migrate(finished, copy).arrays
    first = catalog_of(copy)
    dataset = changed(copy)
    last, arrays = catalog_of(dataset), migrate(finished, dataset).arrays
    now = last.slot[last.rows(first.items)]
    new = last.slot[last.rows(["x", "y"])]
    moments = [name for name in stored if name.endswith("softmax/table")]
    moments.remove("params/softmax/table")
    assert len(moments) == 2 and np.any(stored[moments[0]])
    for name in moments:
        old, moved = (x[name].reshape(-1, 8) for x in (stored, arrays))
        np.testing.assert_array_equal(moved[now], old[first.slot])
        assert not moved[new].any()
    for name, array in stored.items():
        if "llama" in name or name == "step":
            np.testing.assert_array_equal(arrays[name], array)


def test_training_goes_on_from_a_migrated_checkpoint(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train.main(small(copy.path, run, "--stop_at", "20"))
    door.main(["retire", *flags(copy, "--ids", "item 4", "--checkpoint", str(run))])
    said = capsys.readouterr().out
    assert f"{run}-v2/20" in said and re.search(r"after +\d+ +0\.\d+", said)
    left_behind = f"migrate --data_dir {copy.path} --checkpoint {run}/20"
    with pytest.raises(UserError, match=left_behind):
        train.main(small(copy.path, run))
    with pytest.raises(UserError, match=left_behind):
        train.main(small(copy.path, tmp_path / "b", "--load_checkpoint", str(run)))
    train.main(small(copy.path, Path(f"{run}-v2")))
    assert "going on from step 20" in capsys.readouterr().out
    assert latest_step(Path(f"{run}-v2")) == 40


def test_a_new_catalog_with_the_same_places_takes_the_checkpoint(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """What prepare --catalog writes where no item is new."""
    from plays import prepared, write_csv

    table = copy.items()["item"].tolist()
    rows = [(f"u{n % 9}", table[n % 20], n) for n in range(90)]
    today = write_csv(tmp_path / "today.csv", rows)
    later = prepared(tmp_path, f"csv:{today}", catalog=copy.path)
    assert later.info.catalog_id == copy.info.catalog_id
    train.main(small(later.path, tmp_path / "on", "--load_checkpoint",
                     str(finished), "--num_steps", "1"))  # fmt: skip
    assert resolve(tmp_path / "on").name == "1"


def test_metrics_hardly_move_when_clusters_divide(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    out = ["--checkpoint", str(finished), "--output", str(tmp_path / "next")]
    door.main(["rebalance", *flags(copy, "--free_share", "0.4", *out)])
    before, after = (
        float(row.split()[2])
        for row in capsys.readouterr().out.splitlines()
        if row.startswith(("before", "after"))
    )
    meta = read_manifest(resolve(tmp_path / "next")).meta
    old = read_manifest(resolve(finished)).meta
    assert before == round(old["score"], 4) and after == round(meta["score"], 4)
    assert abs(meta["validation"]["nll"] - old["validation"]["nll"]) < 0.01


def test_the_door_changes_items_and_shows_versions(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    new = new_items(
        tmp_path,
        "item_id,title,text\nx,Ex,of old\ny,,\n",
    )
    door.main(["add", *flags(copy, *new, "--dry_run")])
    assert "2 added" in capsys.readouterr().out
    assert open_dataset(copy.path).info.catalog_version == 1
    door.main(["add", *flags(copy, *new)])
    door.main(["retire", *flags(copy, "--ids", "x, item 2")])
    door.main(["grow", *flags(copy, "--free_share", "0.5")])
    door.main(["add", *flags(copy, *new_items(tmp_path, "item_id\nx\n"))])
    door.main(["show", *flags(copy)])
    said = capsys.readouterr().out
    assert "version 5: 10 clusters; 0 items added, 1 back, 0 retired" in said
    dataset = open_dataset(copy.path)
    frame = dataset.items().set_index("item")
    assert frame.loc["x", ["title", "text"]].tolist() == ["Ex", "of old"]
    assert frame.loc["y", ["title", "text"]].tolist() == ["y", ""]
    assert frame.index[frame["retired"]].tolist() == ["item 2"]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ("add --items new.csv", "item 'item 1' is in the catalog already"),
        ("add --items none.csv", "none.csv does not exist"),
        ("add --items bad.csv", "has no column 'item_id'"),
        ("add --items similar.csv", "item 'nobody' is not in the catalog"),
        ("add --items one.csv --vectors v.npy", r"wanted vectors float32\[1, 4\]"),
        ("retire --ids nobody", "item 'nobody' is not in the catalog"),
        ("retire", "wanted one of --ids and --items"),
        ("grow", "wanted one of --clusters and --free_share"),
        ("rebalance --free_share 1", "free_share is 1.0, wanted at least 0"),
        ("grow --clusters 1 --output o", "--output needs --checkpoint"),
        ("migrate", "migrate needs --checkpoint"),
        (
            "add --items bad.csv --item_column id --title_column name",
            "bad.csv has no column 'name': it has id, title; .* --title_column",
        ),
        (
            "add --items bad.csv --item_column id --similar_column near",
            "bad.csv has no column 'near': .* --similar_column",
        ),
        ("retire --ids ,", "--ids is ',', wanted item ids"),
        ("retire --items no.csv", "no.csv has no rows"),
        ("retire --ids nobody --skip_known", "item 'nobody' is not in the catalog"),
        ("retire --ids nobody --checkpoint nothing", "not in the catalog"),
        ("grow --clusters 1 --checkpoint nothing", "nothing: no such folder"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    dataset: Dataset, tokens: str, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text("item_id\nitem 1\n")
    Path("one.csv").write_text("item_id\nx\n")
    Path("bad.csv").write_text("id,title\nx,X\n")
    Path("no.csv").write_text("item_id\n")
    Path("similar.csv").write_text("item_id,similar\nx,nobody\n")
    np.save("v.npy", np.zeros((2, 4), np.float32))
    before = dataset.info.catalog_id
    command, *rest = tokens.split()
    assert re.search(
        said, refused(door.main, [command, *flags(dataset), *rest], capsys)
    )
    assert open_dataset(dataset.path).info.catalog_id == before


def test_a_checkpoint_of_another_catalog_is_refused(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", num_items=20, seed=1)
    given = ["--checkpoint", str(finished)]
    said = refused(
        door.main, ["grow", *flags(other, "--clusters", "1", *given)], capsys
    )
    assert f"is none of the 1 versions of that of {other.path}; wanted the" in said
    assert "see --data_dir: it was /" in said
    assert open_dataset(other.path).info.catalog_version == 1
    said = refused(door.main, ["migrate", *flags(copy, *given)], capsys)
    assert "is of version 1 of the catalog already" in said


@pytest.mark.parametrize(
    ("where", "given"), [(".", "."), (".", "40"), ("40", ".."), ("40", ".")]
)
def test_a_checkpoint_may_be_named_from_inside_its_run(
    where: str, given: str, copy: Dataset, finished: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    step = resolve(finished).name
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run" / where.replace("40", step))
    given = given.replace("40", step)
    door.main(["retire", *flags(copy, "--ids", "item 4", "--checkpoint", given,
                                "--dry_run")])  # fmt: skip
    assert f"becomes {tmp_path / 'run-v2' / step}" in capsys.readouterr().out


def test_a_checkpoint_that_was_left_behind_is_told_how_to_follow(
    copy: Dataset, finished: Path
) -> None:
    dataset = revise(copy, *catalog_of(copy).retire(["item 3"]))
    with pytest.raises(UserError, match=f"migrate --data_dir {dataset.path} --check"):
        open_checkpoint(finished, dataset.path, None, NOWHERE)
