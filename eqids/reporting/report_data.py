"""All that a report shows, as numbers: one pass for each run, and the baselines'."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from eqids.config import ReportConfig, require, to_json
from eqids.data import Dataset
from eqids.fit.baseline_ranks import BASELINES, baseline_ranks
from eqids.fit.count_likelihood import CountLikelihoods, count_likelihoods
from eqids.fit.evaluation import Split, target_slots, targets_of
from eqids.fit.list_metrics import CatalogFacts
from eqids.fit.rank_cache import ranks_key
from eqids.fit.results import reasons_left_out
from eqids.fit.top_lists import TopLists
from eqids.io.cache_folder import cache_folder
from eqids.io.cached_arrays import read_arrays, write_arrays
from eqids.reporting.bootstrap import Bootstrap
from eqids.reporting.list_results import baseline_lists
from eqids.reporting.measured_run import FoundRun, MeasuredRun, find_run, measure
from eqids.reporting.slices import Division, divisions


@dataclass(frozen=True, eq=False)
class System:
    """A run or a baseline beside others.

    Attributes:
        label: its name in the report.
        ranks: of each target, seen items filtered and kept.
        lists: recommended items, seen ones left out.
        run: the run, or None for a baseline.
    """

    label: str
    ranks: Float[np.ndarray, "user 2"]
    lists: TopLists
    run: MeasuredRun | None = None


@dataclass(frozen=True, eq=False)
class ReportData:
    """What the sections of a report are made from.

    Attributes:
        config: the flags.
        dataset: the dataset of all runs, with the targets.
        split: the split that has them.
        users: rows of the evaluated users.
        target: the slot of each target.
        systems: the runs, then the baselines.
        likelihoods: of baselines that give probabilities.
        facts: about the items.
        bootstrap: samples of users.
        left_out: why baselines are missing, by their names.
        divisions: the users in groups.
    """

    config: ReportConfig
    dataset: Dataset
    split: Split
    users: Int[np.ndarray, " user"]
    target: Int[np.ndarray, " user"]
    systems: Sequence[System]
    likelihoods: CountLikelihoods
    facts: CatalogFacts
    bootstrap: Bootstrap
    left_out: Mapping[str, str]
    divisions: Sequence[Division]

    @property
    def target_seen(self) -> Bool[np.ndarray, " user"]:
        """Whether each target is in its history, so that it is filtered as seen."""
        return np.isinf(self.systems[0].ranks[:, 0])

    @property
    def runs(self) -> list[System]:
        """The runs."""
        return [one for one in self.systems if one.run is not None]

    @property
    def baselines(self) -> list[System]:
        """The baselines."""
        return [one for one in self.systems if one.run is None]


def report_data(config: ReportConfig, report: Callable[[str], None]) -> ReportData:
    """Returns the data of a report.

    Args:
        config: the flags.
        report: receives messages about what takes long.

    Raises:
        UserError: a run cannot be opened, or two runs have different datasets or
            protocols, so that no table may have both.
    """
    found = [find_run(path, config) for path in config.run]
    _check_comparable(found)
    dataset = found[0].dataset
    groups = divisions(dataset, config.split, config.user_columns)
    runs = [measure(run, config, report) for run in found]
    left_out = reasons_left_out(dataset)
    labels = _labels(runs)
    systems = [
        System(label, run.found.ranked[:, :2], run.found.filtered, run)
        for label, run in zip(labels, runs, strict=True)
    ]
    for name, baseline in BASELINES.items():
        if name not in left_out:
            (ranks,) = baseline_ranks(name, [(dataset, config.split)], report)
            lists = TopLists(baseline_lists(name, dataset, config.split, report))
            systems.append(System(baseline.label, ranks.astype(np.float64), lists))
    users, _ = targets_of(dataset, config.split)
    return ReportData(
        config=config,
        dataset=dataset,
        split=config.split,
        users=users,
        target=target_slots(dataset, config.split),
        systems=systems,
        likelihoods=_likelihoods(dataset, config.split, report),
        facts=CatalogFacts.of(dataset),
        bootstrap=Bootstrap(len(users), config.seed),
        left_out=left_out,
        divisions=groups,
    )


def _check_comparable(found: Sequence[FoundRun]) -> None:
    """Refuses runs that would be measured differently, before any is."""
    first = found[0]
    for other in found[1:]:
        require(
            other.dataset.info.dataset_hash == first.dataset.info.dataset_hash,
            f"{first.path} is of the dataset {_dataset(first.dataset)} and "
            f"{other.path} of {_dataset(other.dataset)}: results of different data or "
            "protocols are never put beside each other, wanted one report for each",
        )
        known = [run.config.flags.request_time for run in (first, other)]
        require(
            known[0] == known[1],
            f"of {first.path} and {other.path} one knows when each target was "
            "requested (--request_time) and the other does not: their protocols "
            "differ, wanted one report for each",
        )


def _dataset(dataset: Dataset) -> str:
    protocol = json.dumps(to_json(dataset.info.protocol)["split"]).strip('"')
    return f"{dataset.path} ({dataset.info.dataset_hash[:12]}, {protocol})"


def _labels(runs: Sequence[MeasuredRun]) -> list[str]:
    """The folders' names, with as much of the path as tells them apart."""
    for depth in range(1, 64):
        names = ["/".join(run.path.parent.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
        steps = [f"{name}, step {run.step}" for name, run in
                 zip(names, runs, strict=True)]  # fmt: skip
        if len(set(steps)) == len(steps):
            return steps
    return [f"{run.path} ({number})" for number, run in enumerate(runs, start=1)]


def _likelihoods(
    dataset: Dataset, split: Split, report: Callable[[str], None]
) -> CountLikelihoods:
    """Those of `count_likelihoods`, from the cache or computed."""
    key = ranks_key("likelihoods", dataset, split)
    path = cache_folder() / "lists" / f"{key}.safetensors"
    kept = read_arrays(path, {"key": key})
    if kept is None:
        found = count_likelihoods(dataset, split)
        kept = {name: np.array(value) for name, value in asdict(found).items()}
        path.parent.mkdir(exist_ok=True)
        write_arrays(path, kept, {"key": key}, report, "they are computed again")
    return CountLikelihoods(**{name: float(value) for name, value in kept.items()})


def gains(
    ranks: Float[np.ndarray, "user 2"], k: int, side: int = 0
) -> Float32[np.ndarray, " user"]:
    """Returns NDCG@K of each user.

    Args:
        ranks: filtered and unfiltered.
        k: the cutoff.
        side: the column: 0 filtered, 1 unfiltered.
    """
    rank = ranks[:, side]
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0).astype(np.float32)
