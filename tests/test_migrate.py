"""Migrated checkpoints: the same scores, and training continues."""

import dataclasses
import re
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TOLERANCE, make_dataset
from models import NOWHERE, queries
from pytest import CaptureFixture
from runs import flags, refused, small

import eqids
from eqids import catalog as command, train
from eqids.checkpoints import latest_step, leaf_name, read_manifest, resolve
from eqids.config import UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import query_batch
from eqids.data.catalog.lineage import Lineage
from eqids.data.catalog.revise import catalog_of, revise
from eqids.inference.open import open_checkpoint
from eqids.migrate.migrated_checkpoint import migrate_checkpoint
from eqids.migrate.remap import remap_arrays
from eqids.model import Batch, EqIDs


def new_items(folder: Path, text: str) -> list[str]:
    (folder / "new.csv").write_text(text)
    return ["--items", str(folder / "new.csv")]


def log_probs(model: EqIDs, dataset: Dataset) -> dict[str, np.ndarray]:
    """Scores by item id, for the first items of a few users' histories."""
    histories = [dataset.history(user)[:8] for user in range(6)]
    batch = Batch.of(query_batch(histories, [None] * 6, 8))
    last = np.array([len(h) for h in histories]) - 1
    query = queries(model, batch)[jnp.arange(6), last]
    scores = np.asarray(model.softmax.log_probs(query))
    frame = dataset.items()
    pairs = frame.loc[~frame["retired"], ["item", "slot"]]
    return {item: scores[:, slot] for item, slot in pairs.itertuples(index=False)}


def migrated_model(model: EqIDs, lineage: Lineage) -> EqIDs:
    """A model of version 1 for the present version, leaf by leaf, in memory."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    named = {leaf_name(route): np.asarray(leaf) for route, leaf in leaves}
    valid = lineage.valid_at(lineage.version)
    arrays = {**remap_arrays(named, lineage, 1), "softmax/valid": valid}
    config = dataclasses.replace(model.config, num_clusters=len(valid))
    shapes = eqx.filter_eval_shape(EqIDs, config, key=jax.random.key(0))
    found = [jnp.asarray(arrays[name]) for name in named]
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


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
    path = migrate_checkpoint(finished, dataset).save(tmp_path / "next")
    assert path == tmp_path / "next" / resolve(finished).name
    opened = open_checkpoint(path, dataset.path, None, NOWHERE)
    found = log_probs(opened.model, dataset)
    expected = log_probs(migrated_model(old, dataset.lineage), dataset)
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


def test_the_optimizer_is_migrated_too(copy: Dataset, finished: Path) -> None:
    stored = migrate_checkpoint(finished, copy).arrays
    first = catalog_of(copy)
    dataset = changed(copy)
    last, arrays = catalog_of(dataset), migrate_checkpoint(finished, dataset).arrays
    now = last.slot[last.rows(first.items)]
    new = last.slot[last.rows(["x", "y"])]
    moments = [name for name in stored if name.endswith("softmax/table")]
    moments.remove("params/softmax/table")
    assert len(moments) == 2 and np.any(stored[moments[0]])
    for name in moments:
        old, new_rows = (x[name].reshape(-1, 8) for x in (stored, arrays))
        np.testing.assert_array_equal(new_rows[now], old[first.slot])
        assert not new_rows[new].any()
    for name, array in stored.items():
        if "llama" in name or name == "step":
            np.testing.assert_array_equal(arrays[name], array)


def test_training_continues_from_a_migrated_checkpoint(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train.main(small(copy.path, run, "--stop_at", "20"))
    command.main(["retire", *flags(copy, "--ids", "item 4", "--checkpoint", str(run))])
    said = capsys.readouterr().out
    assert f"{run}-v2/20" in said and re.search(r"after +\d+ +0\.\d+", said)
    wanted = f"migrate --data_dir {copy.path} --checkpoint {run}/20"
    with pytest.raises(UserError, match=wanted):
        train.main(small(copy.path, run))
    with pytest.raises(UserError, match=wanted):
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


def test_metrics_hardly_change_when_clusters_divide(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    out = ["--checkpoint", str(finished), "--output", str(tmp_path / "next")]
    command.main(["rebalance", *flags(copy, "--free_share", "0.4", *out)])
    before, after = (
        float(row.split()[2])
        for row in capsys.readouterr().out.splitlines()
        if row.startswith(("before", "after"))
    )
    meta = read_manifest(resolve(tmp_path / "next")).meta
    old = read_manifest(resolve(finished)).meta
    assert before == round(old["score"], 4) and after == round(meta["score"], 4)
    assert abs(meta["validation"]["nll"] - old["validation"]["nll"]) < 0.02


def test_the_command_changes_items_and_shows_versions(
    copy: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    new = new_items(
        tmp_path,
        "item_id,title,text\nx,Ex,of old\ny,,\n",
    )
    command.main(["add", *flags(copy, *new, "--dry_run")])
    assert "2 added" in capsys.readouterr().out
    assert open_dataset(copy.path).info.catalog_version == 1
    command.main(["add", *flags(copy, *new)])
    command.main(["retire", *flags(copy, "--ids", "x, item 2")])
    command.main(["grow", *flags(copy, "--free_share", "0.5")])
    command.main(["add", *flags(copy, *new_items(tmp_path, "item_id\nx\n"))])
    command.main(["show", *flags(copy)])
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
    name, *rest = tokens.split()
    assert re.search(
        said, refused(command.main, [name, *flags(dataset), *rest], capsys)
    )
    assert open_dataset(dataset.path).info.catalog_id == before


def test_a_checkpoint_of_another_catalog_is_refused(
    copy: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", num_items=20, seed=1)
    given = ["--checkpoint", str(finished)]
    said = refused(
        command.main, ["grow", *flags(other, "--clusters", "1", *given)], capsys
    )
    assert f"another catalog than {other.path} has, in any of its 1 versions" in said
    assert "wanted --data_dir with the dataset that it was trained on (/" in said
    assert open_dataset(other.path).info.catalog_version == 1
    said = refused(command.main, ["migrate", *flags(copy, *given)], capsys)
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
    command.main(["retire", *flags(copy, "--ids", "item 4", "--checkpoint", given,
                                "--dry_run")])  # fmt: skip
    assert f"becomes {tmp_path / 'run-v2' / step}" in capsys.readouterr().out


def test_an_old_checkpoint_is_refused_with_the_command_that_migrates_it(
    copy: Dataset, finished: Path
) -> None:
    dataset = revise(copy, *catalog_of(copy).retire(["item 3"]))
    with pytest.raises(UserError, match=f"migrate --data_dir {dataset.path} --check"):
        open_checkpoint(finished, dataset.path, None, NOWHERE)
