"""All programs of a served model, by the shapes of their arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from eqids.config import MARKOV_ORDER
from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.compiled_programs import (
    continued_vectors,
    most_probable,
    query_vectors,
    with_pages,
)
from eqids.inference.engine.shapes import Shapes
from eqids.inference.open import Opened
from eqids.model import PrefixCache
from eqids.model.item_log_probs import log_probs
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


def all_programs(
    opened: Opened, shapes: Shapes, pages: PrefixCache | None = None
) -> list[ProgramShape]:
    """Returns the programs that a model with these shapes may run.

    Args:
        opened: the model.
        shapes: the shapes.
        pages: the shapes of its history cache, if it has one.
    """
    model = opened.model
    programs = [
        ProgramShape(nearest_items, (model.softmax, _ints(1)), {"k": k})
        for k in shapes.ks
    ]
    for rows in shapes.rows:
        if pages is None:
            programs += _whole(opened, rows, shapes.lengths)
        else:
            programs += _continued(opened, rows, shapes, pages)
        (any_length,) = _whole(opened, rows, shapes.lengths[:1])
        function = partial(query_vectors, **any_length.static)
        vectors = jax.eval_shape(function, *any_length.args)
        args = model, *vectors, _ints(SCORED)
        programs.append(ProgramShape(log_probs, args, {}))
        programs += [
            ProgramShape(most_probable, (model, *vectors, *lists), {"k": k})
            for k in shapes.ks
            for lists in _filters(shapes, rows, opened.dataset.item_valid)
        ]
    return programs


def _whole(opened: Opened, rows: int, lengths: Sequence[int]) -> list[ProgramShape]:
    """Returns the programs that compute whole histories."""
    static = {"dtype": opened.dtype}
    return [
        ProgramShape(
            query_vectors,
            (opened.model, opened.prefix, _fields(opened, rows, length), _ints(rows)),
            static,
        )
        for length in lengths
    ]


def _continued(
    opened: Opened, rows: int, shapes: Shapes, pages: PrefixCache
) -> list[ProgramShape]:
    """Returns the programs that continue kept pages, or none, and keep new ones."""
    sizes = [(length, 0) for length in shapes.lengths]
    sizes += [(length, shapes.num_pages) for length in shapes.continued]
    programs, kept = [], set()
    for length, num_before in sizes:
        fields, row = _fields(opened, rows, length), _ints(rows)
        recent, before = _ints(rows, MARKOV_ORDER), _ints(rows, num_before)
        args = opened.model, opened.prefix, pages, fields, row, recent, before, row
        one = ProgramShape(continued_vectors, args, {"dtype": opened.dtype})
        programs.append(one)
        _, new = jax.eval_shape(partial(one.function, **one.static), *one.args)
        place = _ints(*new.keys.shape[1:3])
        if place.shape not in kept:
            kept.add(place.shape)
            programs.append(ProgramShape(with_pages, (pages, new, place), {}))
    return programs


def _fields(
    opened: Opened, rows: int, length: int
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the fields of a `Batch`."""
    batch = HostBatch.empty(rows, length, opened.model.config.request_time)
    return {n: _ints(*x.shape) for n, x in vars(batch).items() if x is not None}


def _filters(shapes: Shapes, rows: int, valid: np.ndarray) -> list[tuple[Any, Any]]:
    """Returns the shapes of `exclude` and `allowed` of batches with so many rows."""
    mask = jax.ShapeDtypeStruct(valid.shape, np.bool_)
    found: list[tuple[Any, Any]] = [(_ints(rows, n), mask) for n in shapes.widths]
    if rows in shapes.masked_rows:
        found.append((None, jax.ShapeDtypeStruct((rows, *valid.shape), np.bool_)))
    return found


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)
