"""Trains settings over data sets and seeds, and ranks every user: `bench quality`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.code_digest import code_digest
from bench.logged_command import run_logged
from bench.quality_data import DataSource, data_sources, dataset_folder, digest
from bench.quality_options import QualityOptions, SplitName
from bench.quality_runs import QualityRun, train_run
from bench.quality_settings import Setting, chosen_settings
from bench.quality_tables import QualityTable, RankedRun, quality_table
from bench.user_ranks import (
    UserRanks,
    in_fresh_process,
    load_ranks,
    rank_baselines,
    rank_run,
)
from eqids.cli import one_line
from eqids.config import UserError
from eqids.data import open_dataset
from eqids.fit.baseline_ranks import BASELINES


@dataclass(frozen=True)
class QualityResult:
    """What was measured.

    Attributes:
        tables: one for each data set and split, and for models with request time.
        settings: the settings, by name.
        failed: a sentence for each run that ended with an error.
        left: labels of the runs that were not started, because --minutes were over.
    """

    tables: Sequence[QualityTable]
    settings: Mapping[str, Setting]
    failed: Sequence[str]
    left: Sequence[str]


def measure_quality(options: QualityOptions) -> QualityResult:
    """Prepares, trains and ranks what the flags name, as far as it is not done.

    Raises:
        UserError: a flag names something that does not exist, or a data set could not
            be prepared.
        Stopped: a signal came; what is done stays.
    """
    settings = chosen_settings(options)
    sources = data_sources(options)
    runs = _planned(settings, sources, options)
    finished, failed, left = _trained(runs, options)
    tables = list[QualityTable]()
    for source in sources:
        own = [one for one in finished if one.data == source.name]
        if own:
            tables += _tables(own, options)
    return QualityResult(tables, {one.name: one for one in settings}, failed, left)


def _planned(
    settings: Sequence[Setting], sources: Sequence[DataSource], options: QualityOptions
) -> list[QualityRun]:
    """Returns the runs seed by seed, so that an early end leaves whole comparisons."""
    folder, folders = options.folder, dict[tuple[str, str], Path]()
    hashes = dict[Path, str]()
    for source in sources:
        for setting in settings:
            path = dataset_folder(source, setting, folder / "data", run_logged)
            folders[source.name, setting.name] = path
            if path not in hashes:
                hashes[path] = open_dataset(path).info.dataset_hash
    runs = []
    for seed in options.seeds:
        for (data, name), path in folders.items():
            (setting,) = (one for one in settings if one.name == name)
            one = QualityRun(
                data, path, hashes[path], setting, seed, folder, code_digest()
            )
            runs.append(one.of_any_code() if options.any_code else one)
    return runs


def _trained(
    runs: Sequence[QualityRun], options: QualityOptions
) -> tuple[list[QualityRun], list[str], list[str]]:
    """Trains what is not finished, and ranks its users.

    Returns:
        The finished runs, why others failed, and the labels of those not started.
    """
    start, finished = time.monotonic(), list[QualityRun]()
    failed, left = list[str](), list[str]()
    for number, one in enumerate(runs, start=1):
        where = f"[{number}/{len(runs)}] {one.label}"
        if one.record is None:
            minutes = (time.monotonic() - start) / 60
            if options.minutes is not None and minutes >= options.minutes:
                left.append(one.label)
                continue
            _report(f"{where}: training, see {one.path / 'train.log'}")
        error = _finish(one, options)
        _report(f"{where}: {error or _summary(one, options)}")
        if error is None:
            finished.append(one)
        else:
            failed.append(error)
    return finished, failed, left


def _finish(one: QualityRun, options: QualityOptions) -> str | None:
    """Trains a run and ranks users, if it is not done; returns why it failed."""
    if one.record is None:
        why = train_run(one, run_logged)
        if why is not None:
            return why
    for split in options.splits:
        path = _ranks_file(one.path, split, options)
        if path.exists():
            continue
        most = options.eval_users
        try:
            in_fresh_process(rank_run, one.checkpoints, split, most, path)
        except (UserError, BrokenExecutor) as error:
            return f"{one.label} could not rank the {split} split: {error}"
    return None


def _ranks_file(folder: Path, name: str, options: QualityOptions) -> Path:
    users = "" if options.eval_users is None else f"-{options.eval_users}-users"
    return folder / f"{name}{users}.npz"


def _summary(one: QualityRun, options: QualityOptions) -> str:
    """What a finished run reached, on one line."""
    record = one.record
    assert record is not None
    parts = [f"{record.steps} steps"]
    if record.seconds is not None:
        parts.append(f"{record.seconds:.0f} s")
    for split in options.splits:
        found = load_ranks(_ranks_file(one.path, split, options)).metrics()
        parts.append(
            f"{split} Recall@10 {found['recall@10']:.4f}, "
            f"NDCG@10 {found['ndcg@10']:.4f}"
        )
    return ", ".join(parts)


def _tables(
    runs: Sequence[QualityRun], options: QualityOptions
) -> Iterator[QualityTable]:
    """Yields the tables of one data set: for each split, and with request time."""
    for split in options.splits:
        ranked = [_ranked(one, split, options) for one in runs]
        for request_time in (False, True):
            alike = [one for one in ranked if one.setting.request_time == request_time]
            if alike:
                counted = {} if request_time else _baselines(runs[0], split, options)
                yield quality_table(
                    runs[0].data, split, alike, counted, options.against
                )


def _ranked(one: QualityRun, split: SplitName, options: QualityOptions) -> RankedRun:
    record = one.record
    assert record is not None
    ranks = load_ranks(_ranks_file(one.path, split, options))
    return RankedRun(one.setting, record, ranks)


def _baselines(
    one: QualityRun, split: SplitName, options: QualityOptions
) -> Mapping[str, UserRanks]:
    """Returns the ranks by baselines on a run's dataset, computed once."""
    label = digest({"dataset_hash": one.dataset_hash, "code": code_digest()})[:10]
    folder = options.folder / "baselines" / f"{one.data}-{label}"
    paths = {n: _ranks_file(folder, f"{split}-{n}", options) for n in BASELINES}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if missing:
        _report(f"{one.data}: ranking by {', '.join(missing)} ({split})")
        most = options.eval_users
        in_fresh_process(rank_baselines, one.data_dir, split, most, missing)
    found = {n: path for n, path in paths.items() if path.exists()}
    return {BASELINES[n].label: load_ranks(path) for n, path in found.items()}


def _report(message: str) -> None:
    """Prints a line at once, also into a file."""
    print(one_line(message), flush=True)
