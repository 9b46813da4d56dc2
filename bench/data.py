"""Times the loader, with and without text, and how long train steps wait for it.

The steps are those of a run of nano. RecTools' SASRec is trained as a peer.
"""

import dataclasses
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.bench_datasets import opened
from bench.contender import Contender, Measured, measure_each, race
from bench.record import OURS, Curve, ResultRow, Section, find
from bench.sasrec import SASREC, has_rectools, sasrec_epochs
from bench.storage_options import DataOptions
from eqids.config import LLAMA_PRESETS, NANO_RECIPE, ModelConfig
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.tokens import ItemTokens, tokens_by_slot
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit import StepConfig, make_optimizer, make_step, split, start
from eqids.model import Batch, EqIDs
from eqids.runs.run_keys import run_keys

ITEMS, WITH_TEXT = "batches", "batches with text"
LOADED, READY = "steps, loaded beside", "steps, batches in memory"
EPOCH = "an epoch"

MEANINGS = {
    "rows_per_second": "rows that one thread makes in a second",
    "targets_per_second": "targets in these rows",
    "words_rows_per_second": "rows with text that one thread makes in a second",
    "words_targets_per_second": "targets in these rows",
    "waiting_share": "share of nano's train step that waits for the batch",
    "loading_share": "time of steps / with batches in memory, minus 1",
    "programs": "programs compiled for the steps: 1 if none is compiled again",
    "ratio_sasrec": "targets a second of nano's steps / of RecTools' SASRec",
}


def measure(options: DataOptions) -> Section:
    """Returns the timings of the loader, alone and beside the step."""
    rows, notes = measure_each(measure_case, options, [ITEMS, LOADED])
    return Section("data", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: DataOptions, which: str) -> Measured:
    """Measures the loader alone, or beside the step, in this process."""
    dataset = opened(options.data_dir)
    size, seq_len = options.batch_size, options.seq_len
    config = BatchConfig(seq_len, size, options.seed)
    case = {"batch": size, "seq": seq_len, "batches": options.num_batches}
    items = TrainingBatches(dataset, config)
    if which == ITEMS:
        contenders = [_alone(ITEMS, items, options.num_batches)]
        note = f"{dataset.path}."
        if options.tokens_per_item:
            tokens = random_item_tokens(dataset, options.tokens_per_item, options.seed)
            texts = TrainingBatches(dataset, config, tokens)
            contenders.append(_alone(WITH_TEXT, texts, options.num_batches))
            note = (
                f"{dataset.path}; words: the text of every item split at spaces, at "
                f"most {options.tokens_per_item}, {tokens.length.mean():.1f} on "
                "average."
            )
    else:
        steps = _Steps(dataset, items, options)
        contenders = steps.contenders()
        note = (
            f"steps: nano ({steps.parameters:,} parameters) on {size} x {seq_len}; "
            "each ends before the next batch is requested; the loader is another "
            "thread, as in a run. "
        )
        if has_rectools():
            peer = sasrec_epochs(
                EPOCH, dataset, seq_len, steps.parameters, options.seed
            )
            contenders.append(peer)
            note += (
                f"SASRec has {peer.facts['parameters']:,.0f} parameters, and RecTools' "
                "defaults."
            )
        else:
            note += "SASRec is left out: rectools[torch] is not installed."
    rows = race(case, size * options.num_batches, contenders, options)
    note += " us each: microseconds a row of ours."
    return [_with_rate(row) for row in rows], [note]


def random_item_tokens(dataset: Dataset, per_item: int, seed: int) -> ItemTokens:
    """Returns random tokens for every item, as many as its text has words."""
    rng, items = np.random.default_rng(seed), dataset.items()
    length = np.zeros(dataset.num_slots, np.int64)
    length[items["slot"]] = [len(text.split()) for text in items["text"]]
    offsets = np.concatenate([[0], np.cumsum(length)])
    vocab = LLAMA_PRESETS["nano"].vocab
    ids = rng.integers(0, vocab, offsets[-1]).astype(np.int32)
    return tokens_by_slot(ids, offsets, np.zeros(0, np.int32), per_item, vocab=vocab)


def _alone(name: str, loader: TrainingBatches, number: int) -> Contender:
    """Makes batches on this thread, new ones every time."""
    made = [0]

    def run() -> None:
        for k in range(made[0], made[0] + number):
            loader.batch(k)
        made[0] += number

    targets = sum(
        int(np.count_nonzero(loader.batch(k).target >= 0)) for k in range(number)
    )
    return Contender(OURS, name, run, facts={"targets": float(targets)})


class _Steps:
    """nano's train step, on batches from the loader or from memory."""

    def __init__(self, dataset: Dataset, loader: TrainingBatches, options: DataOptions):
        recipe, info = NANO_RECIPE, dataset.info
        sizes = ModelConfig(
            LLAMA_PRESETS["nano"], info.num_clusters, info.cluster_size,
            recipe.item_width, recipe.adapter, dropout=recipe.dropout,
        )  # fmt: skip
        first, self._key = run_keys(options.seed)
        model = EqIDs(sizes, valid=dataset.item_valid, key=first)
        params, self._frozen = split(model, "all", jnp.float32)
        self.parameters = sum(x.size for x in jax.tree.leaves(params))
        config = StepConfig("all", recipe)
        self._state = start(params, make_optimizer(config))
        self._step = make_step(config)
        self._loader, self._number = loader, options.num_batches
        self._ready = [loader.batch(k) for k in range(self._number)]
        targets = sum(np.count_nonzero(b.target >= 0) for b in self._ready)
        self._targets = {"targets": float(targets)}
        # One stream for all repetitions, as in a run, so that its thread works ahead.
        self._stream = loader.iterate(0, 2**31)
        self._facts = dict(self._targets)

    def _programs(self) -> int:
        """How many programs are compiled for the step."""
        return self._step._cache_size()  # type: ignore[attr-defined]

    def contenders(self) -> list[Contender]:
        """Steps on batches as the loader makes them, and on batches in memory."""

        def loaded() -> None:
            waited, total = self._run(islice(self._stream, self._number))
            self._facts["waited"] = self._facts.get("waited", 0.0) + waited
            self._facts["seconds"] = self._facts.get("seconds", 0.0) + total
            self._facts["programs"] = self._programs()

        def ready() -> None:
            self._run(iter(self._ready))

        ready()  # compiles
        return [
            Contender(OURS, LOADED, loaded, facts=self._facts),
            Contender(OURS, READY, ready, facts=self._targets),
        ]

    def _run(self, batches: Any) -> tuple[float, float]:
        """Returns the seconds spent waiting for batches, and the total."""
        waited, began = 0.0, time.perf_counter()
        while True:
            requested = time.perf_counter()
            arrays: HostBatch | None = next(batches, None)
            waited += time.perf_counter() - requested
            if arrays is None:
                return waited, time.perf_counter() - began
            self._state, metrics = self._step(
                self._state, self._frozen, Batch.of(arrays), self._key, None
            )
            jax.block_until_ready(metrics)


def _with_rate(row: ResultRow) -> ResultRow:
    facts = {"targets/s": row.facts["targets"] / row.seconds.median}
    if row.name == OURS:
        facts["rows/s"] = row.units / row.seconds.median
    if "parameters" in row.facts:
        facts["parameters"] = row.facts["parameters"]
    if "waited" in row.facts:
        facts["waiting"] = row.facts["waited"] / row.facts["seconds"]
        facts["programs"] = row.facts["programs"]
    return dataclasses.replace(row, facts=facts)


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    items, texts = find(rows, OURS, ITEMS), find(rows, OURS, WITH_TEXT)
    loaded, ready = find(rows, OURS, LOADED), find(rows, OURS, READY)
    peer = find(rows, SASREC, EPOCH)
    assert items is not None, "batches were not measured"
    assert loaded is not None and ready is not None, "steps were not measured"
    return {
        "rows_per_second": items.facts["rows/s"],
        "targets_per_second": items.facts["targets/s"],
        "words_rows_per_second": None if texts is None else texts.facts["rows/s"],
        "words_targets_per_second": (
            None if texts is None else texts.facts["targets/s"]
        ),
        "waiting_share": loaded.facts["waiting"],
        "loading_share": loaded.seconds.median / ready.seconds.median - 1,
        "programs": loaded.facts["programs"],
        "ratio_sasrec": None
        if peer is None or peer.device != loaded.device
        else loaded.facts["targets/s"] / peer.facts["targets/s"],
    }


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Returns rows a second, at the one size."""
    series = {
        row.work: [(float(row.units), row.facts["rows/s"])]
        for row in rows
        if row.name == OURS
    }
    return Curve("The loader", "rows in one repetition", "rows a second", series)
