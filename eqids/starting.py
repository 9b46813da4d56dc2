"""A new run that starts from a pair, see `convert.hf_eqids`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx

from convert.hf_eqids import check_pair, load_beside, read_pair
from eqids.config import TrainConfig
from eqids.fit.step import State
from eqids.fit.weights import check_unused
from sharding import Placement


def flags_with_pair(flags: TrainConfig) -> TrainConfig:
    """Returns the flags of a run with what the pair decides that it starts from.

    That is its Llama, and those sizes of the rest that no flag says.

    Args:
        flags: the run's.

    Raises:
        UserError: there is no such pair.
    """
    if flags.init_from is None:
        return flags
    sizes = read_pair(flags.init_from).sizes
    return replace(
        flags,
        llama_path=flags.init_from,
        item_width=flags.item_width or sizes.item_width,
        adapter=flags.adapter or sizes.adapter,
        tied_items=flags.tied_items and sizes.tied_items,
    )


def load_pair_weights(
    state: State,
    stored: State,
    folder: Path,
    meta: Mapping[str, Any],
    put: Placement,
) -> State:
    """Returns a new run's state with the weights of a pair, whose Llama it has.

    Args:
        state: at step 0.
        stored: its shapes in checkpoints, see `stored_shapes`.
        folder: the pair's.
        meta: what the new run would record.
        put: where weights go.

    Raises:
        UserError: a file of another pair, or a tensor that is not what it should be.
    """
    pair = read_pair(folder)
    check_pair(pair, meta["base"])
    check_unused(folder, pair.meta, meta)
    params = eqx.combine(load_beside(pair, stored.params, put), state.params)
    return replace(state, params=params)
