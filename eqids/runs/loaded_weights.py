"""The weights that a new run takes from another run's checkpoint, or from a pair."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from convert.hf_eqids import check_pair, load_beside, read_pair
from eqids.checkpoints import leaf_name, read_manifest, resolve, restore
from eqids.config import LoraConfig, ModelConfig, from_json, require
from eqids.fit.step import State
from eqids.model import EqIDs, SuccessorCounts
from eqids.model.llama import LlamaBlock
from eqids.runs.same_run import difference
from eqids.runs.same_sizes import check_lora, check_shapes, check_strategy
from sharding import Placement


def load_weights(
    state: State,
    stored: State,
    checkpoint: Path,
    meta: Mapping[str, Any],
    put: Placement,
) -> State:
    """Returns a new run's state with the weights of another run's checkpoint.

    Arrays that train in the new run and did not train in the other (Llama or its
    low-rank changes, after a frozen stage) keep their values. If Llama trains, the
    checkpoint's low-rank changes are merged into it.

    Args:
        state: at step 0.
        stored: its shapes in checkpoints, see `stored_shapes`.
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        meta: what the new run would record.
        put: places the weights.

    Raises:
        UserError: the checkpoint does not exist, or has another catalog or arrays of
            other shapes; or its heads were trained over another frozen Llama than this
            run's, or over low-rank changes that this run can neither keep nor merge.
    """
    path = resolve(checkpoint, "--load_checkpoint")
    manifest = read_manifest(path)
    merges = _check_weights(path, manifest.meta, meta)
    has_gate = manifest.meta["model"]["num_successors"] > 0
    shapes, params = _with_gate(stored.params, has_gate), state.params
    if merges:
        lora = from_json(LoraConfig, manifest.meta["model"]["lora"], f"{path}: lora")
        with_lora = partial(LlamaBlock.with_lora, config=lora, key=jax.random.key(0))
        blocks = eqx.filter_eval_shape(with_lora, shapes.llama.blocks)
        shapes = eqx.tree_at(lambda m: m.llama.blocks, shapes, blocks)

    def stored_leaf(
        route: tuple[object, ...], leaf: jax.ShapeDtypeStruct
    ) -> jax.ShapeDtypeStruct | None:
        return leaf if leaf_name(route, "params") in manifest.arrays else None

    wanted, sizes = (
        jax.tree_util.tree_map_with_path(stored_leaf, tree)
        for tree in (put(shapes), shapes)
    )
    loaded = restore(path, wanted, "params", sizes)
    if merges:
        changed = eqx.tree_at(
            lambda b: b.lora,
            params.llama.blocks,
            loaded.llama.blocks.lora,
            is_leaf=lambda x: x is None,
        )
        loaded = eqx.tree_at(lambda m: m.llama.blocks.lora, loaded, None)
        merged = jax.jit(LlamaBlock.merged)(changed)
        params = eqx.tree_at(lambda m: m.llama.blocks, params, merged)
    return dataclasses.replace(state, params=_over(params, loaded))


def load_pair_weights(
    state: State,
    stored: State,
    folder: Path,
    meta: Mapping[str, Any],
    put: Placement,
) -> State:
    """Returns a new run's state with the weights of a pair, whose Llama the run has.

    Args:
        state: at step 0.
        stored: its shapes in checkpoints, see `stored_shapes`.
        folder: the pair's folder.
        meta: what the new run would record.
        put: places the weights.

    Raises:
        UserError: a file of another pair, or a tensor of another name, shape or dtype.
    """
    pair = read_pair(folder)
    check_pair(pair, meta["base"])
    check_unused(folder, pair.meta, meta)
    like = _with_gate(stored.params, pair.sizes.num_successors > 0)
    params = _over(state.params, load_beside(pair, like, put))
    return dataclasses.replace(state, params=params)


def _with_gate(shapes: EqIDs, has_gate: bool) -> EqIDs:
    """The shapes of a run's weights, with a gate of counts or without, as stored."""
    if has_gate == (shapes.successors is not None):
        return shapes
    gate = None
    if has_gate:
        gate = eqx.filter_eval_shape(SuccessorCounts.zeros, 1, 1, 1)
        gate = eqx.tree_at(lambda c: (c.slot, c.weight), gate, (None, None))
    return _with_counts(shapes, gate)


def _over(params: EqIDs, loaded: EqIDs) -> EqIDs:
    """A run's weights, with those that were loaded in their place."""
    if params.successors is None:
        loaded = _with_counts(loaded, None)
    return eqx.combine(loaded, params)


def _with_counts(params: EqIDs, counts: SuccessorCounts | None) -> EqIDs:
    def is_none(node: object) -> bool:
        return node is None

    return eqx.tree_at(lambda m: m.successors, params, counts, is_leaf=is_none)


def check_unused(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Requires that a new run leaves unused items out if the older run did.

    Args:
        path: the path of the older run, for messages.
        old: what it records.
        new: what the new run would record.

    Raises:
        UserError: the new run does not, so training would lower their scores.
    """
    was, now = (meta["config"]["flags"]["init_items"] for meta in (old, new))
    require(
        was != "text" or now == "text",
        f"{path} was trained with --init_items text, which leaves unused items out of "
        f"training, and this run has --init_items {now}; wanted the same",
    )


def _check_weights(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Requires that a new run can start from the weights of a checkpoint.

    Args:
        path: the checkpoint.
        old: what it records.
        new: what the new run would record.

    Returns:
        Whether the checkpoint's low-rank changes are to be merged into Llama.

    Raises:
        UserError: see `load_weights`.
    """
    strategy = new["config"]["strategy"]
    check_strategy(path, old["config"]["strategy"], strategy)
    names = ["catalog_id"]
    if old["config"]["strategy"] != "all":
        names.append("base")
    for name in names:
        require(old[name] == new[name], str(difference(name, path, old, new)))
    seeds = [meta["config"]["flags"]["seed"] for meta in (old, new)]
    require(
        "base" not in names or new["base"] is not None or seeds[0] == seeds[1],
        f"{path} was trained over the frozen random Llama of --seed {seeds[0]}, this "
        f"run has {seeds[1]}; wanted the same",
    )
    check_unused(path, old, new)
    was, now = (
        from_json(ModelConfig, meta["model"], f"{path}: model") for meta in (old, new)
    )
    check_shapes(path, was, now)
    check_lora(path, was.lora, now.lora, strategy)
    return was.lora is not None and strategy == "all"
