"""From the ranks of users to a table's values: means, spreads, paired differences."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.paired_bootstrap import PairedDifference, paired_bootstrap
from bench.published import PublishedFigure, published
from bench.quality_options import SplitName
from bench.quality_runs import RunRecord
from bench.quality_settings import Setting
from bench.user_ranks import UserRanks
from eqids.config import require

SHOWN = ("recall@10", "ndcg@10", "mrr@10", "recall@50", "ndcg@50", "mrr@50")
"""Metrics of a table."""
COMPARED = ("ndcg@10", "recall@10")
"""Metrics of paired differences; the first one says which baseline is best."""


@dataclass(frozen=True)
class RankedRun:
    """A finished run with the ranks of a split's users."""

    setting: Setting
    record: RunRecord
    ranks: UserRanks


@dataclass(frozen=True)
class QualityRow:
    """A setting or a baseline in a table, seen items filtered.

    Attributes:
        name: its name.
        by_seed: the metrics of every run, with its NLL; of a baseline, under seed 0.
        runs: the records of the runs; none for a baseline.
        ahead: runs ahead of every baseline in the first of `COMPARED`.
        differences: to another row, by its name, then by metric.
    """

    name: str
    by_seed: Mapping[int, Mapping[str, float]]
    runs: Sequence[RunRecord] = ()
    ahead: int | None = None
    differences: Mapping[str, Mapping[str, PairedDifference]] = field(
        default_factory=dict
    )

    @property
    def seconds(self) -> float | None:
        """Mean wall time of training; None for a baseline, or if a part is unknown."""
        known = [one.seconds for one in self.runs if one.seconds is not None]
        complete = len(known) == len(self.runs) > 0
        return statistics.fmean(known) if complete else None

    @property
    def parameters(self) -> int | None:
        """Number of trained parameters; None for a baseline."""
        return self.runs[0].parameters if self.runs else None

    def mean(self, metric: str) -> float:
        """Returns the mean over runs."""
        return statistics.fmean(one[metric] for one in self.by_seed.values())

    def deviation(self, metric: str) -> float | None:
        """Returns the standard deviation over runs, or None if there is one run."""
        values = [one[metric] for one in self.by_seed.values()]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class QualityTable:
    """Everything about one data set and split.

    Attributes:
        data: the data set.
        split: the split.
        request_time: whether the models know when they are asked.
        num_users: users of the split that were ranked.
        baselines: rows of baselines.
        settings: rows of settings.
        published: figures of others.
        notes: sentences that a reader must know.
    """

    data: str
    split: SplitName
    request_time: bool
    num_users: int
    baselines: Sequence[QualityRow]
    settings: Sequence[QualityRow]
    published: Sequence[PublishedFigure]
    notes: Sequence[str]


def quality_table(
    data: str,
    split: SplitName,
    runs: Sequence[RankedRun],
    baselines: Mapping[str, UserRanks],
    against: str | None,
) -> QualityTable:
    """Returns the table of one data set and split.

    Args:
        data: the data set.
        split: the split.
        runs: all finished runs; either all of them know the request's time, or none.
        baselines: the ranks by baselines; none for models with the request's time.
        against: a setting that the others are compared with too.

    Raises:
        UserError: two runs have ranked different users.
    """
    named = dict[str, list[RankedRun]]()
    for run in runs:
        named.setdefault(run.setting.name, []).append(run)
    others = {name: _gains([ranks]) for name, ranks in baselines.items()}
    others = dict([max(others.items(), key=_score)]) if others else {}
    if against in named:
        others[against] = _gains([run.ranks for run in named[against]])
    _check_users([*baselines.values(), *(run.ranks for run in runs)], data)
    request_time = runs[0].setting.request_time
    return QualityTable(
        data,
        split,
        request_time,
        len(runs[0].ranks.user),
        [QualityRow(name, {0: ranks.metrics()}) for name, ranks in baselines.items()],
        [_row(name, own, baselines, others) for name, own in named.items()],
        published(data, request_time) if split == "test" else (),
        _notes([run.record for run in runs]),
    )


def _row(
    name: str,
    runs: Sequence[RankedRun],
    baselines: Mapping[str, UserRanks],
    others: Mapping[str, Mapping[str, np.ndarray]],
) -> QualityRow:
    """The row of a setting, from its runs and what it is compared with."""
    by_seed = {
        run.record.seed: {**run.ranks.metrics(), "nll": float(run.ranks.nll.mean())}
        for run in runs
    }
    least = max((one.metrics()[COMPARED[0]] for one in baselines.values()), default=0)
    ours = _gains([run.ranks for run in runs])
    return QualityRow(
        name,
        by_seed,
        runs=[run.record for run in runs],
        ahead=sum(one[COMPARED[0]] > least for one in by_seed.values())
        if baselines
        else None,
        differences={
            other: {m: paired_bootstrap(ours[m], theirs[m]) for m in COMPARED}
            for other, theirs in others.items()
            if other != name
        },
    )


def _gains(runs: Sequence[UserRanks]) -> dict[str, np.ndarray]:
    """The compared metrics of each user, averaged over runs."""
    each = [ranks.gains() for ranks in runs]
    return {name: np.mean([one[name] for one in each], axis=0) for name in COMPARED}


def _score(row: tuple[str, Mapping[str, np.ndarray]]) -> float:
    return float(row[1][COMPARED[0]].mean())


def _check_users(ranked: Sequence[UserRanks], data: str) -> None:
    same = all(np.array_equal(one.user, ranked[0].user) for one in ranked)
    require(
        same,
        f"{data}: settings rank different users, so they cannot be compared user by "
        "user; wanted the same users for all settings of a data set",
    )


def _notes(records: Sequence[RunRecord]) -> list[str]:
    """What the runs of a table have not in common, and where they ran."""
    machines = sorted({f"{one.cpu}, {one.cores} cores" for one in records})
    notes = [f"Trained on {' and on '.join(machines)}."]
    busy = max((one.busy_cores or 0.0 for one in records), default=0.0)
    if busy > 0.3:
        notes.append(
            f"Other processes kept up to {busy:.1f} cores busy, so times are longer "
            "than on a quiet machine."
        )
    versions = len({one.code for one in records})
    if versions > 1:
        notes.append(f"The runs are of {versions} versions of the code.")
    return notes
