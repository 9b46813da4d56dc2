"""Checkpoints that record fields by their names before version 0.2."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from models import NOWHERE

from convert.hf_eqids import read_pair
from convert.hf_write import hf_config
from eqids.checkpoints import leaf_name, read_manifest, resolve
from eqids.checkpoints.manifest import write_manifest
from eqids.config import ModelConfig, RunConfig, from_json, to_json
from eqids.config.upgrade import upgrade_meta
from eqids.fit.strategy import trainable
from eqids.inference.open import open_checkpoint
from eqids.model import EqIDs

RECORDED = Path(__file__).with_name("checkpoint_before_0_2.json")
"""`meta` of a run over a frozen Llama, with text, and the shapes of its parameters."""


def recorded(name: str = "meta") -> dict[str, Any]:
    found = json.loads(RECORDED.read_text())[name]
    assert isinstance(found, dict)
    return found


def repeats(now: Any, then: Any) -> bool:
    """Whether all that was recorded is recorded now, with the same values."""
    if not isinstance(then, dict):
        return bool(now == then)
    return all(name in now and repeats(now[name], then[name]) for name in then)


def test_a_record_of_old_names_is_read_with_the_present_ones() -> None:
    old = recorded()
    new = upgrade_meta(old)
    config = from_json(RunConfig, new["config"], "config")
    sizes = from_json(ModelConfig, new["model"], "model")
    # Every field is one that a run records now; later fields have their defaults.
    assert repeats(to_json(config), new["config"])
    assert repeats(to_json(sizes), new["model"])
    assert config.recipe.text_width == sizes.text_width == config.encoding_width == 0
    assert sizes.cluster_size == old["model"]["room"] == 44
    assert config.tokens is not None
    assert config.tokens.tokens == old["config"]["words"]["words"]
    assert config.tokens.tokenizer == old["config"]["words"]["tokenizer"]
    rest = old.keys() - {"config", "model"}
    assert {name: new[name] for name in rest} == {name: old[name] for name in rest}
    assert old == recorded()


def test_parameters_have_the_names_and_shapes_that_they_had() -> None:
    sizes = from_json(ModelConfig, upgrade_meta(recorded())["model"], "model")
    model = eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0))
    params = eqx.filter(model, trainable(model, "heads"))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {leaf_name(route, "params"): list(leaf.shape) for route, leaf in leaves}
    assert found == recorded("arrays")


def test_records_of_the_present_and_of_others_stay_as_they_are() -> None:
    new = upgrade_meta(recorded())
    without = {**new, "config": {**new["config"], "tokens": None}}
    for meta in (new, without, {}, {"config": 3, "model": None}, {"words": 1}):
        assert upgrade_meta(meta) == meta


def test_a_checkpoint_of_old_names_restores(finished: Path, tmp_path: Path) -> None:
    new = resolve(finished)
    old = tmp_path / new.name
    shutil.copytree(new, old)
    manifest = read_manifest(old)
    meta = json.loads(json.dumps(manifest.meta))
    meta["config"]["words"] = meta["config"].pop("tokens")
    meta["model"]["room"] = meta["model"].pop("cluster_size")
    write_manifest(old, dataclasses.replace(manifest, meta=meta))
    assert '"room"' in (old / "manifest.json").read_text()
    found, wanted = (open_checkpoint(path, None, None, NOWHERE) for path in (old, new))
    assert found.config == wanted.config
    for ours, theirs in zip(
        jax.tree.leaves(found.model), jax.tree.leaves(wanted.model), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_pair_of_old_names_is_read(tmp_path: Path) -> None:
    meta = recorded()
    sizes = from_json(ModelConfig, upgrade_meta(meta)["model"], "model")
    content = hf_config(sizes.llama, "float32")
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "eqids.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    info = {**meta, "format_version": 1, "step": 20, "llama": "", "tensors": ""}
    (tmp_path / "eqids.json").write_text(json.dumps(info))
    pair = read_pair(tmp_path)
    assert pair.sizes == sizes
    assert pair.config.tokens is not None
    assert pair.config.tokens.tokens == meta["config"]["words"]["words"]
