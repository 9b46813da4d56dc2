"""Times one more event after histories that were read before."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from bench.contender import Contender, race
from bench.record import OURS, CaseNumbers, ResultRow
from bench.serve_options import ServeOptions
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import Opened

LENGTHS = 50, 200, 500
"""Items of the histories."""
WHOLE, KEPT = "one event after {}, read whole", "one event after {}, the rest kept"
_SEQ_LEN = 528
"""Positions that the model is made to read, so that all histories fit."""
_CACHE_MB = 256.0


def appends(
    case: CaseNumbers, opened: Opened, options: ServeOptions
) -> list[ResultRow]:
    """Times a history that grows with each request, with a history cache or without.

    Args:
        case: the numbers of the rows.
        opened: the model.
        options: how to measure.
    """
    recipe = dataclasses.replace(opened.config.recipe, seq_len=_SEQ_LEN)
    config = dataclasses.replace(opened.config, recipe=recipe)
    opened = dataclasses.replace(opened, config=config)
    whole = ServedModel(opened, max_batch=1, max_k=options.k)
    kept = ServedModel(opened, max_batch=1, max_k=options.k, history_cache_mb=_CACHE_MB)
    slots = np.flatnonzero(opened.dataset.item_valid).astype(np.int32)
    rng, rows = np.random.default_rng(options.seed), list[ResultRow]()
    for length in LENGTHS:
        before = rng.choice(slots, length)
        contenders = [
            Contender(OURS, work.format(length), _growing(model, before, options.k))
            for work, model in ((WHOLE, whole), (KEPT, kept))
        ]
        rows += race(case, 1, contenders, options)
    return rows


def _growing(
    model: ServedModel, before: Int32[np.ndarray, " event"], k: int
) -> Callable[[], None]:
    """Returns a function that answers after one more event at each call."""
    lengths, again = itertools.count(len(before) + 1), np.resize(before, _SEQ_LEN)

    def answer() -> None:
        model.answer([Query(History(0, again[: next(lengths)]), k)])

    # The first reads all of the history, and both compile programs.
    answer()
    answer()
    return answer
