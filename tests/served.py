"""Small served models, and what they answer by sorting the whole catalog."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from models import FLOAT32, log_probs_at, tiny_model
from test_words import random_words

from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.data.batches.tokens import num_newest
from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.data.facts import facts_of
from eqids.fit.gate import with_gate
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.model import Batch
from eqids.runs.recipe import resolved
from eqids.runs.run_tokens import prompt_computed

Kind = Literal["items", "text", "prompt"]
"""Items alone, with texts, or with texts and a prompt that is computed once."""
NOW = 1_100_000
"""The time of requests."""


def opened_model(
    dataset: Dataset, kind: Kind = "items", *, seq_len: int = 24, seed: int = 0
) -> Opened:
    """A model with counts that reads the request time; its weights are noise."""
    sizes = {"num_successors": dataset.successors.width, "request_time": True}
    model = tiny_model(dataset, seed, **sizes)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(arrays)
    rng = np.random.default_rng(seed)
    noisy = [x + 0.3 * rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
    model = with_gate(eqx.combine(jax.tree.unflatten(treedef, noisy), rest), 0.25)
    counts, own = tiny_model(dataset, seed, **sizes).successors, model.successors
    assert counts is not None and own is not None
    model = eqx.tree_at(lambda m: m.successors.weight, model, counts.weight)
    flags = TrainConfig(
        batch_size=2, seq_len=seq_len, item_width=8, request_time=True,
        data_dir=dataset.path,
    )  # fmt: skip
    config = resolved(flags, facts_of(dataset))
    prefix, tokens = None, None
    if kind != "items":
        tokens = random_words(dataset, seed, per_item=2, prompt=5)
    if kind == "prompt":
        prefix, tokens = prompt_computed(model.llama, tokens, "heads", FLOAT32)
    return Opened(Path(f"run/{seed}"), seed, config, dataset, model, tokens, prefix)


def oracle(opened: Opened) -> Callable[[History], np.ndarray]:
    """A function that returns log P of all slots after a history with items.

    It lays the history out in a row of full length, alone. A history that is too long
    begins at a multiple of an eighth of the items that fit.
    """
    run = jax.jit(log_probs_at)
    seq_len, tokens = opened.config.recipe.seq_len, opened.tokens
    step = seq_len // (1 if tokens is None else 1 + tokens.per_item) // 8

    @functools.cache
    def of(slots: bytes, times: bytes | None, asked: int | None) -> np.ndarray:
        own = np.frombuffer(slots, np.int32)
        found = None if times is None else np.frombuffer(times, np.int64)
        first = next(
            first
            for first in range(0, len(own), step)
            if num_newest(own[first:], seq_len, tokens) == len(own) - first
        )
        own, found = own[first:], None if found is None else found[first:]
        host = query_batch([own], [found], seq_len, tokens, [asked])
        at = jnp.asarray(last_positions(host)[0])
        log_prob = run(opened.model, Batch.of(host), at, opened.prefix)
        return np.where(opened.dataset.item_valid.reshape(-1), log_prob, -np.inf)

    def call(history: History) -> np.ndarray:
        times = None if history.times is None else history.times.tobytes()
        return of(history.slots.tobytes(), times, history.request_time)

    return call


def left(query: Query, dataset: Dataset) -> np.ndarray:
    """Bool by slot: what may be recommended, by the words of `Query`."""
    may = dataset.item_valid.reshape(-1).copy()
    if query.allow is not None:
        may &= query.allow.allowed.reshape(-1)
    if query.filter_seen:
        may[query.history.slots] = False
    if query.deny is not None:
        may[query.deny] = False
    return may
