"""Times saving and restoring of sharded arrays, beside Orbax and a copy of files."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from bench.checkpoint_ways import (
    BEGIN,
    COPY,
    COPY_COLD,
    KEPT,
    ORBAX,
    RAW,
    READ,
    READ_COLD,
    RESTORE,
    SAVE,
    SAVE_STEP,
    STEP,
    VERIFY,
    VERIFY_WARM,
    WARM,
    OrbaxCheckpoints,
    OurCheckpoints,
    Steps,
    Way,
    can_forget,
    copying,
    has_orbax,
    random_tree,
    size_of,
)
from bench.clock import Stoppable, Timing, alternate
from bench.contender import Measured, measure_each
from bench.machine import free_bytes, peak_bytes, reset_peak
from bench.record import (
    FIRST,
    OURS,
    ResultRow,
    Section,
    find,
    of_one_size,
    ratio,
    row_of_bytes,
)
from bench.storage_options import CheckpointOptions
from eqids.config import require

MEANINGS = {
    "blocking_share": "time that a step waits for a save beside training / a save",
    "save_share": "speed of a save / of copying its files, which are in memory",
    "restore_share": "speed of restoring / of copying the files, both from the disk",
    "restore_warm_share": "the same, with files in memory",
    "verify_ratio": "time to verify files from the disk / to read them",
    "verify_warm_ratio": "the same, with files in memory",
    "peak_ratio": "host memory of a save, or of one beside training if that takes "
    "more, / bytes saved",
    "peak_ratio_restore": "host memory of restoring, the arrays included / their bytes",
    "orbax_save_ratio": "time of Orbax / ours, to save",
    "orbax_blocking_ratio": "the same, for the time until a save has begun",
    "orbax_kept_ratio": "the same, where no step follows that donates the arrays",
    "orbax_step_ratio": "what a save adds to itself and the next step, which donates "
    "the arrays: Orbax / ours",
    "orbax_restore_ratio": "the same, to restore from the disk",
    "orbax_restore_warm_ratio": "the same, to restore from memory",
    "orbax_peak_ratio": "peak_ratio of Orbax",
}


@dataclass(frozen=True)
class CheckpointCase:
    """What a process measures.

    Attributes:
        folder: the folder to write to.
        orbax: whether Orbax takes part.
        alone: the contender and work to run once; by default all run in turns.
    """

    folder: Path
    orbax: bool
    alone: tuple[str, str] | None = None

    def __str__(self) -> str:
        return ", ".join(self.alone) + f", {FIRST}" if self.alone else "all in turns"


def measure(options: CheckpointOptions) -> Section:
    """Returns the timings and memory of every way."""
    near = options.folder or Path.cwd()
    need, free = 4 * options.num_bytes, shutil.disk_usage(near).free
    require(
        free >= need,
        f"{near} has {free / 1e9:.1f} GB left, wanted {need / 1e9:.1f}, see --folder "
        "and --size",
    )
    need, free = 7 * options.num_bytes, free_bytes()
    require(
        free >= need,
        f"{free / 1e9:.1f} GB of memory are free, wanted {need / 1e9:.1f}, see --size",
    )
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=near) as name:
        folder = Path(name)
        alone = [(OURS, SAVE), (OURS, BEGIN), (OURS, RESTORE)]
        if has_orbax():
            alone += [(ORBAX, SAVE), (ORBAX, BEGIN), (ORBAX, RESTORE)]
        turns = CheckpointCase(folder, has_orbax())
        cases = [*(replace(turns, alone=one) for one in alone), turns]
        rows, notes = measure_each(measure_case, options, cases)
    return Section(
        "checkpoint",
        _keys(rows),
        MEANINGS,
        rows,
        _notes() + notes,
        of_one_size("Saving and restoring sharded arrays", rows),
    )


def measure_case(options: CheckpointOptions, case: CheckpointCase) -> Measured:
    """Measures in this process, which has not used jax yet."""
    tree = random_tree(options.num_bytes, options.devices, options.seed)
    clock = Stoppable()
    steps = Steps(tree)
    ours = OurCheckpoints(case.folder, tree, clock, steps)
    used: list[OurCheckpoints | OrbaxCheckpoints] = [ours]
    if case.orbax and (case.alone is None or case.alone[0] == ORBAX):
        used.append(OrbaxCheckpoints(case.folder, tree, clock, steps))
    ways = {(way.name, way.work): way for one in used for way in one.ways()}
    try:
        if case.alone is not None:
            row = _once(ways[case.alone], tree, clock)
            if case.alone[1] == SAVE:
                _ = used[-1].kept  # for the process that restores alone
            return [row], []
        for way in (steps.way(), *copying(ours.kept, case.folder, clock)):
            ways[way.name, way.work] = way
        runs = {", ".join(label): way.run for label, way in ways.items()}
        timings = alternate(
            runs, options.most_repetitions, options.most_seconds, clock=clock
        )
        return [
            _row(way, way.work, timings[name], tree)
            for name, way in zip(runs, ways.values(), strict=True)
        ], []
    finally:
        for one in used:
            one.close()


def _once(way: Way, tree: Mapping[str, jax.Array], clock: Stoppable) -> ResultRow:
    """Runs one way once in this process, and watches memory."""
    reset_peak()
    before = peak_bytes()
    wall, cpu = clock()
    way.run()
    wall_end, cpu_end = clock()
    after = peak_bytes()
    timing = Timing((wall_end - wall,), (cpu_end - cpu,))
    row = _row(way, f"{way.work}, {FIRST}", timing, tree)
    if before is None or after is None:
        return row
    share = (after - before) / size_of(dict(tree))
    return replace(row, peak_bytes=after, facts={**row.facts, "memory": share})


def _row(
    way: Way, work: str, timing: Timing, tree: Mapping[str, jax.Array]
) -> ResultRow:
    size = size_of(dict(tree))
    case = {"MB": round(size / 1e6), "arrays": len(tree), "devices": len(jax.devices())}
    kind = jax.devices()[0].device_kind
    return row_of_bytes(size, case, way.name, work, timing, kind)


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    def at(name: str, work: str) -> ResultRow | None:
        return find(rows, name, work)

    def memory(name: str, *works: str) -> float | None:
        found = [at(name, f"{work}, {FIRST}") for work in works]
        shares = [row.facts["memory"] for row in found if row and "memory" in row.facts]
        return max(shares, default=None)

    def added(name: str) -> float | None:
        both, step = at(name, SAVE_STEP), at(RAW, STEP)
        if both is None or step is None:
            return None
        return max(both.seconds.median - step.seconds.median, 1e-9)

    ours, orbax = added(OURS), added(ORBAX)
    return {
        "blocking_share": ratio(at(OURS, BEGIN), at(OURS, SAVE)),
        "save_share": ratio(at(RAW, COPY), at(OURS, SAVE)),
        "restore_share": ratio(at(RAW, COPY_COLD), at(OURS, RESTORE)),
        "restore_warm_share": ratio(at(RAW, COPY), at(OURS, WARM)),
        "verify_ratio": ratio(at(OURS, VERIFY), at(RAW, READ_COLD)),
        "verify_warm_ratio": ratio(at(OURS, VERIFY_WARM), at(RAW, READ)),
        "peak_ratio": memory(OURS, SAVE, BEGIN),
        "peak_ratio_restore": memory(OURS, RESTORE),
        "orbax_save_ratio": ratio(at(ORBAX, SAVE), at(OURS, SAVE)),
        "orbax_blocking_ratio": ratio(at(ORBAX, BEGIN), at(OURS, BEGIN)),
        "orbax_kept_ratio": ratio(at(ORBAX, BEGIN), at(OURS, KEPT)),
        "orbax_step_ratio": orbax / ours if orbax and ours else None,
        "orbax_restore_ratio": ratio(at(ORBAX, RESTORE), at(OURS, RESTORE)),
        "orbax_restore_warm_ratio": ratio(at(ORBAX, WARM), at(OURS, WARM)),
        "orbax_peak_ratio": memory(ORBAX, SAVE, BEGIN),
    }


def _notes() -> list[str]:
    notes = [
        f"{SAVE}, {COPY}: until everything is on the disk; us each: microseconds a MB. "
        f"{BEGIN}: until training may continue; the clock is stopped while the rest is "
        "written. In turns, the memory of the copy is reused.",
        f"{FIRST}: in its own process; memory: over the bytes saved, beyond what the "
        "process held before.",
        "EqIDs computes a digest of every byte that it saves, and checks those of all "
        "that it restores; Orbax computes none.",
        f"{SAVE_STEP}: the step negates the arrays and donates them, so that a copy "
        f"made inside the step counts as well; {KEPT}: as a run's last save.",
    ]
    cold = f"{RESTORE}, {VERIFY}, {READ_COLD} and {COPY_COLD} read files that were"
    if can_forget():
        notes.append(f"{cold} dropped from memory; the others, files in it.")
    else:
        notes.append("All files are read from memory: this system cannot drop them.")
    if not has_orbax():
        notes.append("Orbax is left out: it is not installed (eqids[peers] has it).")
    return notes
