"""All programs of a served model, by the shapes of their arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.compiled_programs import (
    log_probs,
    most_probable,
    query_vectors,
)
from eqids.inference.engine.shapes import Shapes
from eqids.inference.open import Opened
from eqids.model.similar import nearest_items

SCORED = 128
"""Items whose log-probabilities one call of `log_probs` returns."""


@dataclass(frozen=True)
class ProgramShape:
    """What a program is compiled from.

    Attributes:
        function: computes it.
        args: the function's arguments, or their shapes.
        static: its constants, by name.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    static: Mapping[str, Any]


def all_programs(opened: Opened, shapes: Shapes) -> list[ProgramShape]:
    """Returns the programs that a model with these shapes may run."""
    model = opened.model
    programs = [
        ProgramShape(nearest_items, (model.softmax, _ints(1)), {"k": k})
        for k in shapes.ks
    ]
    for rows in shapes.rows:
        for length in shapes.lengths:
            batch = HostBatch.empty(rows, length, model.config.request_time)
            fields = {
                n: _ints(*x.shape) for n, x in vars(batch).items() if x is not None
            }
            args = model, opened.prefix, fields, _ints(rows)
            static = {"dtype": opened.dtype}
            programs.append(ProgramShape(query_vectors, args, static))
        vectors = jax.eval_shape(partial(query_vectors, dtype=opened.dtype), *args)
        args = model, *vectors, _ints(SCORED)
        programs.append(ProgramShape(log_probs, args, {}))
        programs += [
            ProgramShape(most_probable, (model, *vectors, *lists), {"k": k})
            for k in shapes.ks
            for lists in _filters(shapes, rows, opened.dataset.item_valid)
        ]
    return programs


def _filters(shapes: Shapes, rows: int, valid: np.ndarray) -> list[tuple[Any, Any]]:
    """Returns the shapes of `exclude` and `allowed` of batches with so many rows."""
    mask = jax.ShapeDtypeStruct(valid.shape, np.bool_)
    found: list[tuple[Any, Any]] = [(_ints(rows, n), mask) for n in shapes.widths]
    if rows in shapes.masked_rows:
        found.append((None, jax.ShapeDtypeStruct((rows, *valid.shape), np.bool_)))
    return found


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)
