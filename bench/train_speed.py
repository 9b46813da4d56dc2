"""Times the train step beside transformers and torch.

On dense batches of random items, and on the histories of a dataset: packed as a run
packs them, one in a row, and padded to the longest of a batch as torch's users do.
"""

import dataclasses
from collections.abc import Sequence

import jax

from bench.bench_datasets import opened, packed_batches, windows_of
from bench.contender import Contender, Measured, measure_each, race
from bench.flops import Amount
from bench.machine import free_bytes
from bench.matmuls import MATMULS, flops_of, jax_matmuls, torch_matmuls
from bench.record import OURS, Curve, ResultRow, Section, find, ratio
from bench.step_options import TrainOptions
from bench.train_ours import OurTrainStep
from bench.train_torch import (
    TorchRecommender,
    TorchStep,
    has_transformers,
    tensors,
)
from bench.windows import Window, one_in_a_row, random_windows
from bench.workload import Workload, workloads_of
from eqids.config import require
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.planning.abstract import Job
from eqids.planning.memory_check import needed
from sharding import placement
from sharding.compiled.machines import HARDWARE

TORCH = "transformers + torch"
JAX_LIMIT, TORCH_LIMIT = "jax", "torch"
PACKED, ROWS, PADDED = "packed", "one in a row", "padded to the longest"

MEANINGS = {
    "ratio": "tokens a second of ours / of transformers + torch, dense",
    "ratio_bfloat16": "the same in bfloat16",
    "share_of_matmuls": "our FLOPs by formula a second / those of a block's products "
    "alone in jax, dense",
    "share_of_matmuls_bfloat16": "the same in bfloat16",
    "share_of_peak": "our FLOPs by formula a second / the data sheet's, on a GPU",
    "ratio_histories": "targets a second of ours, packed / of transformers + torch, "
    "padded",
    "ratio_packing": "targets a second of ours, packed / one history in a row",
}


def measure(options: TrainOptions) -> Section:
    """Returns the timings of every workload."""
    workloads = workloads_of(options)
    if "histories" in options.on:
        opened(options.data_dir)  # Finds a mistake before anything is measured.
    rows, notes = measure_each(measure_case, options, workloads)
    notes = _notes(options) + [_first_of(workloads)] + notes
    return Section("train", _keys(rows, workloads), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: TrainOptions, workload: Workload) -> Measured:
    """Measures one workload in this process."""
    if workload.on == "dense":
        return _dense(options, workload), []
    return _histories(options, workload, opened(options.data_dir))


def _dense(options: TrainOptions, workload: Workload) -> list[ResultRow]:
    num_clusters = default_num_clusters(options.num_items)
    job = workload.job(num_clusters, -(-options.num_items // num_clusters))
    num_slots = num_clusters * job.model.cluster_size
    _check_memory(job)
    windows = random_windows(
        num_slots, workload.batch_size, workload.seq_len, options.seed
    )
    batches = one_in_a_row(windows, workload.batch_size)
    ours = OurTrainStep(job, None, options.seed).steps(workload.label, batches)
    peers = []
    if options.peers and has_transformers():
        step = _torch_step(job, num_slots)
        peers.append(_torch(step, workload.label, windows, workload, None))
    amount = Amount.of(batches)
    args = workload.llama, workload.strategy, workload.dtype, amount.positions
    limits = [jax_matmuls(JAX_LIMIT, *args)]
    if peers:
        limits += torch_matmuls(TORCH_LIMIT, *args)
    _trace(options, workload, ours)
    rows = race(
        workload.case, amount.targets, [ours, *peers, *limits], options, settle=True
    )
    gflop = flops_of(*args[:2], amount.positions) / 1e9
    return _with_rates([_as_limit(row, gflop) for row in rows])


def _histories(options: TrainOptions, workload: Workload, dataset: Dataset) -> Measured:
    job = workload.job(dataset.info.num_clusters, dataset.info.cluster_size)
    _check_memory(job)
    config = BatchConfig(workload.seq_len, workload.batch_size, options.seed)
    packed, usual = packed_batches(dataset, config, options.num_batches)
    windows = windows_of(packed, options.seed)
    unpacked = one_in_a_row(windows, workload.batch_size, workload.seq_len)
    model = OurTrainStep(job, dataset.item_valid, options.seed)
    contenders = [
        model.steps(f"{workload.label}, {PACKED}", packed),
        model.steps(f"{workload.label}, {ROWS}", unpacked),
    ]
    if options.peers and has_transformers():
        number = dataset.item_valid.ravel().cumsum() - 1
        step = _torch_step(job, int(number[-1]) + 1)
        name = f"{workload.label}, {PADDED}"
        contenders.append(_torch(step, name, windows, workload, number))
    _trace(options, workload, contenders[0])
    amount = Amount.of(packed)
    rows = race(workload.case, amount.targets, contenders, options, settle=True)
    note = (
        f"{workload}: {len(windows)} windows with {amount.targets:,} targets of "
        f"{dataset.path}, in {len(packed)} packed batches and {len(unpacked)} unpacked "
        f"ones: {len(windows) / len(packed) / workload.batch_size:.2f} windows in a "
        f"packed row. A run has {usual:.2f} on average; packing gains this factor if "
        "time is proportional to rows."
    )
    return _with_rates(rows), [note]


def _check_memory(job: Job) -> None:
    """Requires memory for our step and the peer's, on a CPU."""
    if jax.default_backend() != "cpu":
        return
    need, free = 2 * needed(job, placement("none")).peak, free_bytes()
    require(
        need <= free,
        f"the step and its peer need about {need / 1e9:.1f} GB, and "
        f"{free / 1e9:.1f} GB are free; wanted a smaller --llama_size or --batch_size",
    )


def _torch_step(job: Job, num_items: int) -> TorchStep:
    model = TorchRecommender(job.model, num_items, job.step.strategy, job.step.dtype)
    return TorchStep(model, job.step.recipe, job.step.grad_clip)


def _torch(step: TorchStep, name: str, windows: Sequence[Window],
           workload: Workload, number: object) -> Contender:  # fmt: skip
    batches = one_in_a_row(windows, workload.batch_size)
    placed = tensors(batches, number)  # type: ignore[arg-type]

    def run() -> None:
        for batch in placed:
            step(batch)

    facts = {"tokens": float(Amount.of(batches).positions)}
    return Contender(TORCH, name, run, facts=facts, device="cpu")


def _trace(options: TrainOptions, workload: Workload, ours: Contender) -> None:
    """Writes a trace of our second run, for Perfetto and XProf."""
    if options.profile is not None:
        ours.run()
        name = str(workload).replace(", ", "-").replace(" ", "")
        with jax.profiler.trace(str(options.profile / name)):
            ours.run()


def _as_limit(row: ResultRow, gflop: float) -> ResultRow:
    if row.work != MATMULS:
        return row
    return dataclasses.replace(row, facts={"GFLOP": gflop})


def _with_rates(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Returns rows with rates in place of amounts."""
    done = []
    for row in rows:
        seconds, facts = row.seconds.median, {}
        if "tokens" in row.facts:
            facts["tokens/s"] = row.facts["tokens"] / seconds
            facts["targets/s"] = row.units / seconds
        if "GFLOP" in row.facts:
            facts["GFLOP/s"] = row.facts["GFLOP"] / seconds
        done.append(dataclasses.replace(row, facts=facts))
    return done


def _keys(
    rows: Sequence[ResultRow], workloads: Sequence[Workload]
) -> dict[str, float | None]:
    def first(on: str, dtype: str | None = None) -> Workload | None:
        fits = (w for w in workloads if w.on == on and dtype in (None, w.dtype))
        return next(fits, None)

    def at(name: str, workload: Workload | None, how: str = "") -> ResultRow | None:
        if workload is None:
            return None
        return find(rows, name, f"{workload.label}{how}", **workload.case)

    def share(workload: Workload | None) -> float | None:
        """Share of the rate of the products alone, which ran in the same race."""
        own = [row for row in rows if row.process == str(workload)]
        ours, limit = at(OURS, workload), find(own, JAX_LIMIT, MATMULS)
        if ours is None or limit is None:
            return None
        return ours.facts["GFLOP/s"] / limit.facts["GFLOP/s"]

    dense, half, real = first("dense"), first("dense", "bfloat16"), first("histories")
    packed = at(OURS, real, f", {PACKED}")
    return {
        "ratio": ratio(at(TORCH, dense), at(OURS, dense)),
        "ratio_bfloat16": ratio(at(TORCH, half), at(OURS, half)),
        "share_of_matmuls": share(dense),
        "share_of_matmuls_bfloat16": share(half),
        "share_of_peak": _share_of_peak(at(OURS, half)),
        "ratio_histories": ratio(at(TORCH, real, f", {PADDED}"), packed),
        "ratio_packing": ratio(at(OURS, real, f", {ROWS}"), packed),
    }


def _share_of_peak(ours: ResultRow | None) -> float | None:
    """Share of the data sheet's rate; None if the device is not in `HARDWARE`."""
    if ours is None:
        return None
    for hardware in HARDWARE.values():
        if hardware.bf16_flops and hardware.name[:4] in ours.device.lower():
            return 1e9 * ours.facts["GFLOP/s"] / hardware.bf16_flops
    return None


def _first_of(workloads: Sequence[Workload]) -> str:
    """Says which workloads the keys are of."""
    named = {(w.on, w.dtype): str(w) for w in reversed(workloads)}
    return f"The keys are of: {'; '.join(reversed(named.values()))}."


def _notes(options: TrainOptions) -> list[str]:
    notes = [
        "us each: microseconds a target. GFLOP/s: of a step, those of the mathematics, "
        "by formula (bench/flops.py); of the products alone, those they compute.",
        "Every turn begins with a step that is not timed: the first step after another "
        "contender's finds memory in that one's state, as never in a run. Weights are "
        "random.",
    ]
    if not options.peers:
        return notes
    if not has_transformers():
        return [*notes, "The peer is left out: torch or transformers is not installed."]
    return [
        *notes,
        "The peer has the same Llama, adapters, freezing and AdamW, under a full "
        "softmax over the catalog at positions with a target. It runs as its users run "
        "it, op by op and not compiled. It runs on the CPU, so on a GPU there is no "
        "ratio.",
    ]


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Returns tokens a second against the positions of a batch."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "tokens/s" in row.facts:
            positions = float(row.case["batch"] * row.case["seq"])
            point = positions, row.facts["tokens/s"]
            series.setdefault(f"{row.name}, {row.work}", []).append(point)
    return Curve("Train step", "positions in a batch", "tokens a second", series)
