"""Times one more event after histories that were read before."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int32

from bench.contender import Contender, race
from bench.record import OURS, CaseNumbers, ResultRow
from bench.serve_options import ServeOptions
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import Opened

LENGTHS = 50, 200, 512
"""Items of the histories."""
WHOLE, KEPT = "one event after {}, read whole", "one event after {}, the rest kept"
_SEQ_LEN = 528
"""Positions that the model is made to read, so that all histories fit."""
_CACHE_MB = 256.0


def appends(
    case: CaseNumbers, opened: Opened, options: ServeOptions
) -> list[ResultRow]:
    """Times a history with another last item each time, with a history cache or not.

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
        asks = _asks(rng.choice(slots, length), slots, min(options.k, len(slots)))
        contenders = [
            Contender(OURS, WHOLE.format(length), _answering(whole, asks)),
            Contender(OURS, KEPT.format(length), _answering(kept, asks)),
        ]
        rows += race(case, 1, contenders, options)
    return rows


def _asks(
    before: Int32[np.ndarray, " event"], last: Int32[np.ndarray, " slot"], k: int
) -> Iterator[Query]:
    """Yields queries that differ in their last item, without end."""
    for item in itertools.cycle(last):
        yield Query(History(0, np.append(before, item)), k)


def _answering(model: ServedModel, asks: Iterator[Query]) -> Callable[[], None]:
    def answer() -> None:
        model.answer([next(asks)])

    return answer
