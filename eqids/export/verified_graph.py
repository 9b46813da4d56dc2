"""Compares the answers of an exported graph with those of EqIDs, on real histories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqids.config import ProgramsConfig, require
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.export.stored_model import StoredModel
from eqids.inference.engine.compiled_programs import most_probable, query_vectors
from eqids.inference.engine.host_arrays import (
    exclude_array,
    history_arrays,
    mask_array,
)
from eqids.inference.engine.prepared_query import PreparedQuery, prepare_query
from eqids.inference.engine.values import Query, SlotFilter
from eqids.inference.histories import History
from eqids.inference.open import Opened, open_path
from eqids.runs.run_tokens import prefix_length, prompt_computed
from sharding import Placement

TOLERANCE = 1e-4
"""The largest difference of a log-probability. Items whose log-probabilities differ by
less may change places."""
_ROWS = 16
"""Histories that are computed at a time."""
_DAY = 86_400


@dataclass(frozen=True)
class GraphVerification:
    """How the answers of a graph and of EqIDs compare."""

    histories: int
    """Number of histories."""
    largest_difference: float
    """Of the log-probabilities."""
    ties_in_another_order: int
    """Items whose place another takes, with the same log-probability but for
    rounding."""


def verified_graph(
    graph: Path, opened: Opened, tokens: ItemTokens | None, k: int, num: int
) -> GraphVerification:
    """Compares a graph in onnxruntime with the model; needs the package onnxruntime.

    Args:
        graph: the file of the graph.
        opened: the model, from `open_in_float32`.
        tokens: of the items' texts, with a prompt that the model computed once.
        k: number of items that the graph returns.
        num: number of histories, spread over the users.

    Raises:
        UserError: an item or a log-probability differs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    answer = _answers(opened, min(k + 1, opened.dataset.num_slots))
    largest, swapped, histories = 0.0, 0, some_histories(opened.dataset, num)
    for first in range(0, len(histories), _ROWS):
        some = histories[first : first + _ROWS]
        queries = [_prepared(one, opened) for one in some]
        inputs = graph_arrays(queries, opened, tokens)
        slots, log_probs = session.run(
            ["slots", "log_probs"], {name: inputs[name] for name in names}
        )
        wanted = [x[: len(some)] for x in answer(queries)]
        difference = _difference(log_probs, wanted[1][:, :k])
        other = _out_of_place(slots, *wanted)
        for row, history in enumerate(some):
            require(
                bool(difference[row] <= TOLERANCE and other[row] >= 0),
                f"{graph.name} answers user {history.user} with other items than EqIDs "
                f"({slots[row].tolist()} and {wanted[0][row, :k].tolist()}) or with "
                f"log-probabilities that differ by {difference[row]:.2g}, wanted the "
                f"same within {TOLERANCE}; nothing was written",
            )
        largest = max(largest, float(difference.max()))
        swapped += int(other.sum())
    return GraphVerification(len(histories), largest, swapped)


def open_in_float32(config: ProgramsConfig, stored: StoredModel) -> Opened:
    """Opens a model to compute in float32, whatever its run computes in."""
    opened = open_path(
        config.input, config.data_dir, config.llama_path, Placement(None, None),
        config.tokenizer,
    )  # fmt: skip
    if opened.config.dtype == "float32":
        return opened
    whole = replace(opened.config, dtype="float32")
    model = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == opened.dtype else x, opened.model
    )
    prefix, tokens = prompt_computed(
        model.llama, stored.tokens, whole.strategy, jnp.float32
    )
    return replace(opened, config=whole, model=model, prefix=prefix, tokens=tokens)


def some_histories(dataset: Dataset, num: int) -> Sequence[History]:
    """Returns histories of users that are spread over a dataset, the shortest first.

    The next item of each is requested a day after the last one. If more are wanted than
    there are users, first halves of histories follow.
    """
    lengths = np.diff(dataset.offsets)
    users = np.flatnonzero(lengths > 0)
    halves = np.flatnonzero(lengths > 1)
    whole = _spread(users, num)
    halves = _spread(halves, num - len(whole))
    user = np.concatenate([whole, halves])
    length = np.concatenate([lengths[whole], lengths[halves] // 2])
    found = []
    for row in np.argsort(length, kind="stable"):
        first = dataset.offsets[user[row]]
        span = slice(first, first + length[row])
        times = None if dataset.times is None else dataset.times[span]
        asked = None if times is None else int(times[-1]) + _DAY
        found.append(History(int(user[row]), dataset.slots[span], times, asked))
    return found


def _spread(users: np.ndarray, num: int) -> np.ndarray:
    """Returns so many of the users, or all of them if there are fewer."""
    num = max(0, min(num, len(users)))
    return users[np.linspace(0, len(users) - 1, num).astype(int)]


def _prepared(history: History, opened: Opened) -> PreparedQuery:
    dataset = opened.dataset
    every = SlotFilter(dataset.item_valid)
    return prepare_query(Query(history, 1), opened, every, dataset.num_slots)


def graph_arrays(
    queries: Sequence[PreparedQuery], opened: Opened, tokens: ItemTokens | None
) -> Mapping[str, np.ndarray]:
    """Returns the inputs of a graph, as long as the longest history.

    Args:
        queries: what to answer.
        opened: the model; its rows lack a prompt that was computed once.
        tokens: with that prompt.
    """
    rows, length = len(queries), max(one.length for one in queries)
    arrays, last = history_arrays(queries, rows, length)
    found = dict(arrays)
    computed = prefix_length(tokens, opened.config.strategy)
    if tokens is not None and computed:
        beside = {"tokens": tokens.prompt, "items": np.full(computed, -1, np.int32)}
        for name, array in found.items():
            front = beside.get(name, np.zeros(computed, np.int32))
            front = np.broadcast_to(front, (rows, computed))
            found[name] = np.concatenate([front, array], axis=1)
    width = max(1, *(len(one.left_out) for one in queries))
    return {
        **found,
        "last": last + np.int32(computed),
        "exclude": exclude_array(queries, rows, width),
        "allowed": np.ones((1, opened.dataset.num_slots), np.bool_),
    }


def _answers(opened: Opened, k: int) -> Any:
    """A function that answers queries as EqIDs does, by programs of one shape."""
    vectors = jax.jit(partial(query_vectors, dtype=jnp.float32))
    best = jax.jit(partial(most_probable, k=k))

    def answer(queries: Sequence[PreparedQuery]) -> Sequence[np.ndarray]:
        arrays, last = history_arrays(queries, _ROWS, opened.config.recipe.seq_len)
        query, recent = vectors(opened.model, opened.prefix, arrays, last)
        allowed = mask_array(queries, _ROWS)
        found: Sequence[np.ndarray] = jax.device_get(
            best(opened.model, query, recent, None, allowed)
        )
        return found

    return answer


def _difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns the largest difference in each row; infinite if one alone is -inf."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs)
    apart = np.where(ours == theirs, 0.0, apart)
    return np.where(np.isnan(apart), np.inf, apart).max(axis=1)


def _out_of_place(
    slots: np.ndarray, wanted: np.ndarray, log_probs: np.ndarray
) -> np.ndarray:
    """Returns how many items of each row are at the place of an equally probable one.

    Args:
        slots: of the graph, [row, k].
        wanted: of EqIDs, perhaps one more.
        log_probs: of `wanted`.

    Returns:
        A number for each row; -1 if another item is among them.
    """
    return np.array(
        [_of_row(*row) for row in zip(slots, wanted, log_probs, strict=True)]
    )


def _of_row(slots: np.ndarray, wanted: np.ndarray, log_probs: np.ndarray) -> int:
    count = 0
    for place in np.flatnonzero(slots != wanted[: len(slots)]):
        where = np.flatnonzero(wanted == slots[place])
        if not len(where) or abs(log_probs[where[0]] - log_probs[place]) > TOLERANCE:
            return -1
        count += 1
    return count
