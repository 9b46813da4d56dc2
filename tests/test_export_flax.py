"""Models in Flax become checkpoints: the same answers, whatever Orbax's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT
from flax_trees import FlaxModel, flattened, flax_model, nested, write_config
from folders import write_hf
from orbax.checkpoint import msgpack_utils
from runs import refused

import eqids
from convert import __main__ as command
from convert.flax_tree import LEAF_ROWS, ZEROS
from convert.orbax_read import OrbaxTree
from eqids import evaluate, prepare, train
from eqids.config import UserError
from eqids.data import Dataset


def _standard(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as saver:
        saver.save(path, tree)


def _handled(**layout: Any) -> Callable[[Path, Any], None]:
    def save(path: Path, tree: Any) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**layout)) as saver:
            saver.save(path, tree)

    return save


def _managed(path: Path, tree: Any) -> None:
    with ocp.CheckpointManager(path) as manager:
        manager.save(7, args=ocp.args.StandardSave(tree))


def _aggregated(path: Path, tree: Any) -> None:
    """As Flax's own `save_checkpoint` left trees to Orbax 0.5: all in msgpack."""
    _handled(use_ocdbt=False)(path, tree)
    about = json.loads((path / "_METADATA").read_text())
    for row in about["tree_metadata"].values():
        row["value_metadata"]["skip_deserialize"] = True
    (path / "_METADATA").write_text(json.dumps(about))
    (path / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(tree))


def _placeholders(path: Path, tree: Any) -> None:
    """As Orbax 0.1 wrote trees: msgpack names the arrays that have files."""
    _handled(use_ocdbt=False)(path, tree)
    (path / "_METADATA").unlink()
    names = {n: f"PLACEHOLDER://{n.replace('/', '.')}" for n in flattened(tree)}
    (path / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(nested(names)))


LAYOUTS: dict[str, Callable[[Path, Any], None]] = {
    "standard": _standard,
    "a folder for each array": _handled(use_ocdbt=False),
    "zarr 3": _handled(use_zarr3=True),
    "zarr 3, a folder for each array": _handled(use_ocdbt=False, use_zarr3=True),
    "a step of a manager": _managed,
    "msgpack": _aggregated,
    "msgpack of names": _placeholders,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_alike(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    leaves = {
        "params/a/kernel": rng.standard_normal((3, 4)).astype(np.float32),
        "params/a/bias": np.zeros(4, np.float32),
        "params/half": rng.standard_normal((2, 5)).astype(ml_dtypes.bfloat16),
        "step": np.asarray(7, np.int32),
    }
    LAYOUTS[layout](tmp_path / "tree", nested(leaves))
    found = OrbaxTree(tmp_path / "tree").leaves
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        got = found[name].read(tuple(slice(0, n) for n in leaf.shape))
        assert (got.dtype, got.shape) == (leaf.dtype, leaf.shape), name
        assert np.asarray(got).tobytes() == leaf.tobytes(), name
    part = found["params/a/kernel"].read((slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, leaves["params/a/kernel"][1:3, :2])


def test_zeros_that_orbax_left_out_are_read(tmp_path: Path) -> None:
    """Older versions stored no chunk of zeros in zarr 3; newer ones say they do."""
    save = _handled(use_ocdbt=False, use_zarr3=True)
    save(tmp_path / "tree", {"bias": np.zeros(4, np.float32)})
    (tmp_path / "tree/bias/c/0").unlink()
    with pytest.raises(UserError, match="leaf bias cannot be read"):
        OrbaxTree(tmp_path / "tree").leaves["bias"].read((slice(0, 4),))
    about = json.loads((tmp_path / "tree/_METADATA").read_text())
    del about["store_array_data_equal_to_fill_value"]
    (tmp_path / "tree/_METADATA").write_text(json.dumps(about))
    leaf = OrbaxTree(tmp_path / "tree").leaves["bias"]
    assert leaf.read((slice(0, 4),)).tolist() == [0.0] * 4


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> FlaxModel:
    return flax_model(dataset)


def _probabilities(run: Path, history: list[str]) -> dict[str, float]:
    found = eqids.load(run).recommend([history], k=30, filter_seen=False)
    return dict(zip(found["item"], found["probability"], strict=True))


def test_the_page_has_every_row_of_the_table() -> None:
    page = (ROOT / "docs/orbax.md").read_text()
    for row in LEAF_ROWS:
        names = " or ".join(f"`{name}`" for name in row.names)
        assert f"| {names} | `{row.array}` |" in page
    for array in ZEROS:
        assert f"`{array}`" in page


HISTORY = ["item 3", "item 5", "item 20", "item 3"]


def test_a_model_with_its_llama_answers_as_it_did(
    dataset: Dataset, model: FlaxModel, tmp_path: Path
) -> None:
    state = {
        "step": np.asarray(123),
        "params": {"params": model.tree()},
        "opt_state": {"0": {"count": np.asarray(123), "mu": model.tree()}},
    }
    _standard(tmp_path / "tree", state)
    items = model.write_items(tmp_path / "items.csv")
    config = write_config(tmp_path / "config.json")
    words = ["orbax-to-eqids", str(tmp_path / "tree"), str(tmp_path / "run")]
    words += ["--data_dir", str(dataset.path), "--items", str(items)]
    command.main([*words, "--llama_config", str(config), "--seq_len", "16"])
    assert (tmp_path / "run/123/manifest.json").is_file()
    found = _probabilities(tmp_path / "run", HISTORY)
    wanted = model.log_probs(HISTORY)
    assert found.keys() == wanted.keys()
    for item, log_prob in wanted.items():
        np.testing.assert_allclose(np.log(found[item]), log_prob, atol=2e-5)


@pytest.mark.long
def test_the_commands_of_the_page(
    model: FlaxModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data is prepared with the model's clusters; the model is converted, evaluated,
    trained further, and converted for Hugging Face."""
    _standard(tmp_path / "tree", model.tree())
    items = model.write_items(tmp_path / "items.csv")
    (tmp_path / "llama").mkdir()
    config = write_config(tmp_path / "llama/config.json")
    run, data = tmp_path / "run", ["--data_dir", str(tmp_path / "data")]
    plays = ["user_id,item_id,timestamp"]
    for user in range(9):
        rows = np.random.default_rng(user).permutation(len(model.ids))
        named = [model.ids[row] for row in rows if model.ids[row] is not None]
        plays += [f"u{user},{item},{n}" for n, item in enumerate(named)]
    (tmp_path / "plays.csv").write_text("\n".join(plays) + "\n")
    source = ["--source", f"csv:{tmp_path / 'plays.csv'}", "--time_unit", "seconds"]
    prepare.main([*source, "--cluster_file", str(items), *data])
    words = ["orbax-to-eqids", str(tmp_path / "tree"), str(run), *data]
    command.main([*words, "--items", str(items), "--llama_path", str(config.parent)])
    wanted = model.log_probs(HISTORY)
    for item, probability in _probabilities(run, HISTORY).items():
        np.testing.assert_allclose(np.log(probability), wanted[item], atol=2e-5)
    evaluate.main([*data, "--checkpoint", str(run), "--split", "valid"])
    assert "EqIDs" in capsys.readouterr().out
    again = ["--load_checkpoint", str(run), "--checkpoint_dir", str(tmp_path / "more")]
    train.main([*again, "--num_steps", "2", "--batch_size", "4"])
    assert (tmp_path / "more/2/manifest.json").is_file()
    command.main(["eqids-to-hf", str(run), str(tmp_path / "pair")])
    assert _probabilities(tmp_path / "pair", HISTORY) == pytest.approx(
        _probabilities(run, HISTORY), rel=1e-5
    )


def test_a_model_over_a_frozen_llama_needs_its_folder(
    dataset: Dataset,
    model: FlaxModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tree has other names, its items' clusters, and no Llama."""
    tensors = write_hf(tmp_path / "llama")
    assert all((tensors[key] == model.tensors[key]).all() for key in tensors)
    leaves = {
        name.replace("item_embeddings/embedding", "items").replace("input_", "in_"): x
        for name, x in model.leaves.items()
        if not name.startswith("llama/")
    }
    leaves["cluster_assignments"] = model.cluster
    leaves = {f"model/{name}": leaf for name, leaf in leaves.items()}
    _handled(use_ocdbt=False)(tmp_path / "tree", nested(leaves))
    ids = "\n".join(one or '""' for one in model.ids)
    (tmp_path / "items.csv").write_text(f"item\n{ids}\n")
    words = ["orbax-to-eqids", str(tmp_path / "tree"), str(tmp_path / "run")]
    words += ["--data_dir", str(dataset.path), "--items", str(tmp_path / "items.csv")]
    words += ["--item_column", "item", "--llama_path", str(tmp_path / "llama")]
    said = refused(command.main, words, capsys)
    assert "has no leaf item_embeddings or item_embeddings/embedding" in said
    words += ["--rename", "model=", "model/in_adapter=input_adapter"]
    words += ["model/items=item_embeddings"]
    command.main(words)
    wanted = model.log_probs(HISTORY)
    for item, probability in _probabilities(tmp_path / "run", HISTORY).items():
        np.testing.assert_allclose(np.log(probability), wanted[item], atol=2e-5)
