"""The train step: tokens and targets a second, beside transformers and torch.

On dense batches of random items, and on the histories of a dataset: packed as a run
packs them, one in a row, and padded to the longest of a batch as torch's users do.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax

from bench.contender import Contender, Measured, measure_each, race
from bench.flops import Amount
from bench.histories import (
    Window,
    one_in_a_row,
    opened,
    packed_batches,
    random_windows,
    windows_of,
)
from bench.machine import free_bytes
from bench.matmuls import MATMULS, flops_of, jax_matmuls, torch_matmuls
from bench.options import TrainOptions
from bench.record import Case, Curve, Row, Section, find, ratio
from bench.train_ours import OURS, Ours
from bench.train_torch import (
    TorchRecommender,
    TorchStep,
    has_transformers,
    tensors,
)
from convert import read_config
from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    PRETRAINED_RECIPES,
    LlamaConfig,
    LoraConfig,
    ModelConfig,
    Strategy,
    require,
)
from eqids.data import Dataset
from eqids.data.batches import BatchConfig
from eqids.data.clusters import default_num_clusters
from eqids.fit.abstract import Job, activations_of
from eqids.fit.fitting import needed
from eqids.model.attention import cudnn_attends
from sharding import HARDWARE, placement

TORCH = "transformers + torch"
JAX_LIMIT, TORCH_LIMIT = "jax", "torch"
PACKED, ROWS, PADDED = "packed", "one in a row", "padded to the longest"

MEANINGS = {
    "ratio": "tokens a second of ours / of transformers + torch, dense",
    "ratio_bfloat16": "the same in bfloat16",
    "share_of_matmuls": "our FLOPs by formula a second / what jax reaches in the "
    "products of a block alone, dense",
    "share_of_matmuls_bfloat16": "the same in bfloat16",
    "share_of_peak": "our FLOPs by formula a second / the data sheet's, on a GPU",
    "ratio_histories": "targets a second of ours, packed / of transformers + torch, "
    "padded",
    "ratio_packing": "targets a second of ours, packed / one history in a row",
}


@dataclass(frozen=True)
class Workload:
    """A model, and what it is trained on.

    Attributes:
        name: of the Llama.
        llama: its sizes.
        strategy: what trains.
        dtype: of Llama's computation.
        on: random items in full rows, or a dataset's histories.
        batch_size: rows.
        seq_len: positions in a row.
    """

    name: str
    llama: LlamaConfig
    strategy: Strategy
    dtype: str
    on: Literal["dense", "histories"]
    batch_size: int
    seq_len: int

    def __str__(self) -> str:
        return f"{self.name}, {self.strategy}, {self.dtype}"

    @property
    def case(self) -> Case:
        """The numbers of it."""
        return {"batch": self.batch_size, "seq": self.seq_len}

    def job(self, num_clusters: int, room: int) -> Job:
        """Returns what a run of this would train, without dropout."""
        nano = self.llama == LLAMA_PRESETS["nano"]
        recipe = NANO_RECIPE if nano else PRETRAINED_RECIPES[self.strategy]
        recipe = dataclasses.replace(
            recipe, batch_size=self.batch_size, seq_len=self.seq_len
        )
        sizes = ModelConfig(
            self.llama, num_clusters, room, recipe.item_width, recipe.adapter,
            lora=LoraConfig() if self.strategy == "lora" else None,
        )  # fmt: skip
        fused = cudnn_attends(self.llama, self.seq_len, self.dtype)
        fused = fused and jax.default_backend() == "gpu"
        kernel: Literal["cudnn", "xla"] = "cudnn" if fused else "xla"
        activations = activations_of(self.dtype, jax.default_backend() == "cpu")
        return Job(
            sizes,
            recipe,
            self.strategy,
            self.dtype,
            activations,
            False,
            kernel,
            "dense",
        )


def measure(options: TrainOptions) -> Section:
    """Returns the timings of every workload."""
    workloads = _workloads(options)
    rows, notes = measure_each(measure_case, options, workloads)
    return Section(
        "train", _keys(rows, workloads), MEANINGS, rows, _notes() + notes, _curve(rows)
    )


def _workloads(options: TrainOptions) -> list[Workload]:
    name: str = "nano" if options.quick else options.llama_size
    llama = LLAMA_PRESETS[name]
    if options.llama_path is not None:
        name, llama = options.llama_path.name, read_config(options.llama_path)
    found = []
    for strategy in options.train:
        for number, dtype in enumerate(options.dtype):
            if "dense" in options.on:
                found += [
                    Workload(name, llama, strategy, dtype, "dense", size, length)
                    for size in options.batch_size
                    for length in options.seq_len
                ]
            if "histories" in options.on and number == 0:
                sizes = options.batch_size[0], options.window
                found.append(
                    Workload(name, llama, strategy, dtype, "histories", *sizes)
                )
    return found


def measure_case(options: TrainOptions, workload: Workload) -> Measured:
    """Measures one workload in this process."""
    if workload.on == "dense":
        return _dense(options, workload), []
    return _histories(options, workload, opened(options.data_dir))


def _dense(options: TrainOptions, workload: Workload) -> list[Row]:
    num_clusters = default_num_clusters(options.num_items)
    job = workload.job(num_clusters, -(-options.num_items // num_clusters))
    num_slots = num_clusters * job.sizes.room
    _check_memory(job)
    windows = random_windows(
        num_slots, workload.batch_size, workload.seq_len, options.seed
    )
    batches = one_in_a_row(windows, workload.batch_size)
    ours = Ours(job, None, options.seed).steps(str(workload), batches)
    peers = []
    if options.peers and has_transformers():
        step = _torch_step(job, num_slots)
        peers.append(_torch(step, str(workload), windows, workload, None))
    amount = Amount.of(batches)
    args = workload.llama, workload.strategy, workload.dtype, amount.positions
    limits = [jax_matmuls(JAX_LIMIT, *args)]
    if peers:
        limits += torch_matmuls(TORCH_LIMIT, *args)
    _trace(options, ours)
    rows = race(
        workload.case, amount.targets, [ours, *peers, *limits], options, settle=True
    )
    gflop = flops_of(*args[:2], amount.positions) / 1e9
    return _with_rates([_as_limit(row, gflop) for row in rows])


def _histories(options: TrainOptions, workload: Workload, dataset: Dataset) -> Measured:
    job = workload.job(dataset.info.num_clusters, dataset.info.room)
    _check_memory(job)
    config = BatchConfig(workload.seq_len, workload.batch_size, options.seed)
    packed, usual = packed_batches(dataset, config, options.num_batches)
    windows = windows_of(packed, options.seed)
    unpacked = one_in_a_row(windows, workload.batch_size, workload.seq_len)
    model = Ours(job, dataset.item_valid, options.seed)
    contenders = [
        model.steps(f"{workload}, {PACKED}", packed),
        model.steps(f"{workload}, {ROWS}", unpacked),
    ]
    if options.peers and has_transformers():
        number = dataset.item_valid.ravel().cumsum() - 1
        step = _torch_step(job, int(number[-1]) + 1)
        name = f"{workload}, {PADDED}"
        contenders.append(_torch(step, name, windows, workload, number))
    _trace(options, contenders[0])
    amount = Amount.of(packed)
    rows = race(workload.case, amount.targets, contenders, options, settle=True)
    note = (
        f"{workload}: {len(windows)} windows with {amount.targets:,} targets of "
        f"{dataset.path}, in {len(packed)} batches packed and {len(unpacked)} not: "
        f"{len(windows) / len(packed) / workload.batch_size:.2f} in a row, of "
        f"{usual:.2f} in a run, which is the most that packing can be worth there."
    )
    return _with_rates(rows), [note]


def _check_memory(job: Job) -> None:
    """Ours and the peer's; on a GPU ours is elsewhere, and fails by itself."""
    if jax.default_backend() != "cpu":
        return
    need, free = 2 * needed(job, placement("none")).peak, free_bytes()
    require(
        need <= free,
        f"the step and its peer need about {need / 1e9:.1f} GB, of which "
        f"{free / 1e9:.1f} are free; wanted a smaller --llama_size or --batch_size",
    )


def _torch_step(job: Job, num_items: int) -> TorchStep:
    model = TorchRecommender(job.sizes, num_items, job.strategy, job.dtype)
    return TorchStep(model, job.recipe, job.grad_clip)


def _torch(step: TorchStep, name: str, windows: Sequence[Window],
           workload: Workload, number: object) -> Contender:  # fmt: skip
    batches = one_in_a_row(windows, workload.batch_size)
    placed = tensors(batches, number)  # type: ignore[arg-type]

    def run() -> None:
        for batch in placed:
            step(batch)

    facts = {"tokens": float(Amount.of(batches).positions)}
    return Contender(TORCH, name, run, facts=facts, device="cpu")


def _trace(options: TrainOptions, ours: Contender) -> None:
    """Leaves a trace of our second step, for Perfetto and XProf."""
    if options.profile is not None:
        ours.run()
        with jax.profiler.trace(str(options.profile)):
            ours.run()


def _as_limit(row: Row, gflop: float) -> Row:
    if row.work != MATMULS:
        return row
    return dataclasses.replace(row, facts={"GFLOP": gflop})


def _with_rates(rows: Sequence[Row]) -> list[Row]:
    """Rates in place of the amounts that rows carry."""
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
    rows: Sequence[Row], workloads: Sequence[Workload]
) -> dict[str, float | None]:
    def first(on: str, dtype: str | None = None) -> Workload | None:
        fits = (w for w in workloads if w.on == on and dtype in (None, w.dtype))
        return next(fits, None)

    def at(name: str, workload: Workload | None, how: str = "") -> Row | None:
        if workload is None:
            return None
        return find(rows, name, f"{workload}{how}", **workload.case)

    def share(workload: Workload | None) -> float | None:
        """Of the products alone, which ran in the same race."""
        ours = at(OURS, workload)
        if ours is None:
            return None
        limit = rows[rows.index(ours) :]
        limit = [row for row in limit if (row.name, row.work) == (JAX_LIMIT, MATMULS)]
        return ours.facts["GFLOP/s"] / limit[0].facts["GFLOP/s"]

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


def _share_of_peak(ours: Row | None) -> float | None:
    """None where the device is none of those whose data sheet is known."""
    if ours is None:
        return None
    for hardware in HARDWARE.values():
        if hardware.bf16_flops and hardware.name[:4] in ours.device.lower():
            return 1e9 * ours.facts["GFLOP/s"] / hardware.bf16_flops
    return None


def _notes() -> list[str]:
    notes = [
        "us each: of a target. GFLOP/s: of what the mathematics asks for, by formula "
        "(bench/flops.py); of the products alone, of what they compute.",
        "Every turn begins with a step that is not timed: the first after another's "
        "step meets its memory, which a run never does.",
        "Weights are random. The peer has the same Llama, adapters, freezing and "
        "AdamW, under a full softmax over the catalog at positions with a target.",
    ]
    if not has_transformers():
        notes.append("The peer is left out: torch and transformers are not installed.")
    return notes


def _curve(rows: Sequence[Row]) -> Curve:
    """Tokens a second against the positions of a batch."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "tokens/s" in row.facts:
            positions = float(row.case["batch"] * row.case["seq"])
            point = positions, row.facts["tokens/s"]
            series.setdefault(f"{row.name}, {row.work}", []).append(point)
    return Curve("Train step", "positions in a batch", "tokens a second", series)
