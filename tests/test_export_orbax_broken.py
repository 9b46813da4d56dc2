"""Broken models in Flax: each refused in a sentence, and nothing written."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax_trees import FlaxModel, flax_model, nested, write_config
from orbax.checkpoint import msgpack_utils
from orbax_damage import Damage, change_json, cut, flip, refuses

from eqids.data import Dataset


@dataclasses.dataclass(frozen=True)
class Trees:
    """A model in Flax in two layouts, and what is needed beside it."""

    folder: Path
    model: FlaxModel
    words: list[str]
    """Flags that fit."""

    def saved(self, leaves: Mapping[str, np.ndarray], path: Path) -> Path:
        """Saves other leaves."""
        with ocp.StandardCheckpointer() as saver:
            saver.save(path, nested(leaves))
        return path


@pytest.fixture(scope="module")
def trees(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trees:
    folder, model = tmp_path_factory.mktemp("flax"), flax_model(dataset)
    items = model.write_items(folder / "items.csv")
    config = write_config(folder / "config.json")
    words = ["--data_dir", str(dataset.path), "--items", str(items)]
    found = Trees(folder, model, [*words, "--llama_config", str(config)])
    found.saved(model.leaves, folder / "database")
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as saver:
        saver.save(folder / "folders", model.tree())
    return found


def _bias(tree: Path) -> Path:
    return tree / "input_adapter.bias"


def _array(change: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda tree: change_json(".zarray", change)(_bias(tree))


def _renamed(key: str) -> Damage:
    def change(values: dict[str, Any]) -> None:
        row = values["tree_metadata"]["('input_adapter', 'bias')"]
        row["key_metadata"][1]["key"] = key

    return change_json("_METADATA", change)


def _msgpack(value: Any) -> Damage:
    def damage(tree: Path) -> None:
        (tree / "_METADATA").unlink()
        (tree / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(value))

    return damage


def _unmerged(tree: Path) -> None:
    (tree / "manifest.ocdbt").unlink()
    (tree / "ocdbt.process_0").mkdir(exist_ok=True)


def _stepped(tree: Path) -> None:
    copy = tree.with_name("copy")
    shutil.copytree(tree, copy)
    for name in ("3", "4"):
        shutil.copytree(copy, tree / name / "default")
    for path in copy.iterdir():
        own = tree / path.name
        own.unlink() if path.is_file() else shutil.rmtree(own)
    shutil.rmtree(copy)


FOLDERS: Mapping[str, tuple[Damage, str]] = {
    "structure lost": (lambda t: (t / "_METADATA").unlink(), "no checkpoint of Orbax"),
    "structure cut": (lambda t: cut(t / "_METADATA"), "_METADATA is not JSON"),
    "no tree": (change_json("_METADATA", lambda m: m.clear()), "has no tree_metadata"),
    "a row without keys": (
        change_json("_METADATA", lambda m: m["tree_metadata"].update({"('x',)": {}})),
        "('x',) has no key_metadata",
    ),
    "a name above": (_renamed(".."), "wanted names without slashes"),
    "an absolute name": (_renamed("/etc/x"), "wanted names without slashes"),
    "a name twice": (_renamed("kernel"), "two leaves input_adapter/kernel"),
    "array lost": (lambda t: shutil.rmtree(_bias(t)), "leaf input_adapter/bias cannot"),
    "array's shape lost": (
        lambda t: (_bias(t) / ".zarray").unlink(), "leaf input_adapter/bias cannot",
    ),
    "chunk lost": (lambda t: (_bias(t) / "0").unlink(), "leaf input_adapter/bias can"),
    "chunk cut": (lambda t: cut(_bias(t) / "0"), "leaf input_adapter/bias cannot"),
    "a huge shape": (
        _array(lambda z: z.update(shape=[10**12], chunks=[10**12])), "said to have 4,0",
    ),
    "a huge chunk": (_array(lambda z: z.update(chunks=[10**12])), "wanted chunks in"),
    "other shape": (_array(lambda z: z.update(shape=[15], chunks=[5])), "shape (15,)"),
    "msgpack of numbers": (_msgpack({"a": np.ones(3)}), "has no leaf item_embeddings"),
    "msgpack of text": (_msgpack({"a": "b"}), "leaf a is a text, wanted numbers"),
    "msgpack of no tree": (_msgpack(np.ones(3)), "holds no tree"),
    "msgpack cut": (
        lambda t: (_msgpack({"a": np.ones(99)})(t), cut(t / "checkpoint")),
        "it is not whole msgpack",
    ),
}  # fmt: skip
"""What is done to the older layout, and what the command says."""
DATABASE: Mapping[str, tuple[Damage, str]] = {
    "database cut": (lambda t: cut(t / "manifest.ocdbt"), "cannot be read"),
    "database flipped": (lambda t: flip(t / "manifest.ocdbt", 40), "cannot be read"),
    "parts never merged": (_unmerged, "no manifest.ocdbt: a save was killed"),
    "structure never written": (
        lambda t: (t / "_METADATA").unlink(), "no _METADATA: a save was killed",
    ),
    "data lost": (lambda t: shutil.rmtree(t / "ocdbt.process_0"), "cannot be read"),
    "several steps": (_stepped, "holds 2 checkpoints (3, 4), wanted the path of one"),
    "nothing": (lambda t: (shutil.rmtree(t), t.mkdir()), "is no checkpoint of Orbax"),
    "no folder": (shutil.rmtree, "no such folder"),
}  # fmt: skip
"""The same for trees in an OCDBT database."""


@pytest.mark.parametrize("layout", ["folders", "database"])
def test_broken_trees_are_refused(
    layout: str, trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, (damage, says) in {"folders": FOLDERS, "database": DATABASE}[
        layout
    ].items():
        tree = tmp_path / case
        shutil.copytree(trees.folder / layout, tree)
        damage(tree)
        words = ["orbax-to-eqids", str(tree), str(tmp_path / "run"), *trees.words]
        refuses(words, says, tmp_path, capsys)


def test_a_save_that_was_killed_is_refused(
    trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("7.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1700000000"):
        shutil.copytree(trees.folder / "database", tmp_path / name / "default")
        for given in (tmp_path, tmp_path / name, tmp_path / name / "default"):
            words = ["orbax-to-eqids", str(given), str(tmp_path / "run")]
            refuses([*words, *trees.words], "a save was killed", tmp_path, capsys)
        shutil.rmtree(tmp_path / name)


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    return lambda leaves: {**leaves, name: change(leaves[name])}


def _without(name: str) -> Any:
    return lambda leaves: {n: leaf for n, leaf in leaves.items() if n != name}


def _spoilt(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def spoil(leaf: np.ndarray) -> np.ndarray:
        out = leaf.astype(np.float64)
        out.reshape(-1)[-1] = value
        return out

    return spoil


UP = "llama/model/layers/1/mlp/up_proj/kernel"
LEAVES: Mapping[str, tuple[Any, str]] = {
    "missing": (_without(UP), f"has no leaf {UP}, wanted one"),
    "no bias": (_without("output_adapter/bias"), "has no leaf output_adapter/bias"),
    "extra": (
        lambda leaves: {**leaves, "value_head/kernel": np.ones((8, 1))},
        "has 1 leaves that no row of docs/orbax.md names, the first is value_head",
    ),
    "a third layer": (
        lambda leaves: {**leaves, UP.replace("1", "2"): leaves[UP]},
        "the first is llama/model/layers/2/mlp/up_proj/kernel",
    ),
    "transposed": (_changed(UP, np.transpose), f"leaf {UP} has shape (24, 16), wanted"),
    "NaN": (_changed(UP, _spoilt(np.nan)), f"leaf {UP} has values that are not finite"),
    "infinite in float32": (_changed(UP, _spoilt(1e300)), "not finite in float32"),
    "whole numbers": (_changed(UP, lambda x: x.astype(int)), f"{UP} is int64, wanted"),
    "vectors": (
        _changed("item_embeddings/embedding", np.ravel), "wanted rows of vectors",
    ),
    "fewer rows": (_changed("item_embeddings/embedding", lambda x: x[1:]), "has 28"),
    "fewer clusters": (
        _changed("cluster_embeddings/embedding", lambda x: x[1:]),
        "and cluster_embeddings has 4 rows",
    ),
    "half a step": (
        lambda leaves: {**leaves, "step": np.ones(())}, "leaf step is float64",
    ),
    "many steps": (
        lambda leaves: {**leaves, "step": np.ones(2, int)}, "wanted one whole number",
    ),
    "a negative cluster": (
        lambda leaves: {**leaves, "cluster_assignments": -np.ones(29, int)},
        "is in cluster -1, and cluster_embeddings has 5 rows",
    ),
    "other assignments": (
        lambda leaves: {**leaves, "cluster_assignments": np.zeros(3, int)},
        "cluster_assignments is int64 of shape (3,), wanted whole numbers",
    ),
}  # fmt: skip
"""Other leaves, and what the command says."""


def test_leaves_that_do_not_fit_are_named(
    trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, (change, says) in LEAVES.items():
        tree = trees.saved(change(trees.model.leaves), tmp_path / case)
        words = ["orbax-to-eqids", str(tree), str(tmp_path / "run"), *trees.words]
        refuses(words, says, tmp_path, capsys)


ITEMS: Mapping[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a row less": (lambda rows: rows[:-1], "has 28 rows, and item_embeddings"),
    "unknown": (
        lambda rows: [row.replace("item 3,", "other,") for row in rows],
        "item 'other' is not in the catalog",
    ),
    "twice": (
        lambda rows: [row.replace("item 3,", "item 5,") for row in rows],
        "item 'item 5' has another row",
    ),
    "left out": (
        lambda rows: [row.replace("item 3,", ",") for row in rows],
        "has no row for 1 items",
    ),
    "other clusters": (
        lambda rows: [row.replace(",2", ",9").replace(",1", ",2") for row in rows],
        "is in cluster 9, and cluster_embeddings has 5 rows",
    ),
    "a cluster too many": (
        lambda rows: [row.replace(",2", ",1") for row in rows],
        "has no item in cluster 2, and cluster_embeddings has 5 rows",
    ),
    "a huge cluster": (
        lambda rows: [row.replace(",2", ",999999999999999") for row in rows],
        "is in cluster 999999999999999, and",
    ),
    "two clusters in one": (
        lambda rows: [rows[0], *(f"{row.split(',')[0]},{n % 5}"
                                 for n, row in enumerate(rows[1:]))],
        "wanted the same clusters: prepare it with --cluster_file",
    ),
    "no clusters": (
        lambda rows: [row.split(",")[0] or '""' for row in rows],
        "has no column 'cluster', and",
    ),
}  # fmt: skip
"""Other rows of items, and what the command says."""


def test_items_that_do_not_fit_are_named(
    trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (trees.folder / "items.csv").read_text().splitlines()
    for change, says in ITEMS.values():
        (tmp_path / "items.csv").write_text("\n".join(change(rows)) + "\n")
        words = [
            "orbax-to-eqids",
            str(trees.folder / "database"),
            str(tmp_path / "run"),
        ]
        words += [*trees.words[:3], str(tmp_path / "items.csv"), *trees.words[4:]]
        refuses(words, says, tmp_path, capsys)


def test_flags_that_a_tree_needs_are_named(
    trees: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["orbax-to-eqids", str(trees.folder / "database"), str(tmp_path / "run")]
    for flags, says in (
        (trees.words[2:], "a model in Flax needs --data_dir"),
        (trees.words[:2] + trees.words[4:], "a model in Flax needs --items"),
        (trees.words[:4], "needs one of --llama_path DIR and --llama_config"),
        ([*trees.words, "--rename", "x=y"], "--rename x: no leaf of"),
        (
            [*trees.words, "--rename", "output_adapter=input_adapter"],
            "two leaves input",
        ),
        ([*trees.words, "--rename", "llama=lm"], "holds no leaf of a Llama"),
    ):
        refuses([*words, *flags], says, tmp_path, capsys)
