"""The section of a report about accuracy: metrics at K and paired differences."""

import numpy as np
from jaxtyping import Float32

from eqids.fit.ranking import CUTOFFS, user_metrics
from eqids.reporting.bootstrap import Interval
from eqids.reporting.charts import IntervalRow, Series, interval_chart, line_chart
from eqids.reporting.html_parts import (
    details,
    figure,
    legend,
    note,
    section,
    table,
)
from eqids.reporting.kinds import kinds_of, legend_names
from eqids.reporting.report_data import ReportData, gains
from eqids.reporting.svg import element

_SHOWN = ("recall@10", "ndcg@10", "mrr@10", "recall@50", "ndcg@50")
_KS = tuple(range(1, 51))


def accuracy(data: ReportData) -> str:
    """Returns the section of metrics at K, runs and baselines beside each other."""
    names, intervals = _labels(data), ndcg_intervals(data)
    tables = [_metric_table(data, side) for side in (0, 1)]
    rows = [
        IntervalRow(one.label, [(one.label, kind, interval)])
        for one, kind, interval in zip(
            data.systems, kinds_of(data.systems), intervals, strict=True
        )
    ]
    best = max(intervals, key=lambda one: one.mean)
    whole = [
        interval_chart(rows, "NDCG@10", about=_about(names, intervals)),
        _at_k(data, "recall"), _at_k(data, "ndcg"), _differences(data),
    ]  # fmt: skip
    captions = (
        "NDCG@10 with 95% intervals over users",
        "Recall@K",
        "NDCG@K",
        f"NDCG@10 of {data.runs[0].label} minus that of the others, paired by user",
    )
    figures = [
        figure(picture, caption)
        for picture, caption in zip(whole, captions, strict=True)
        if picture
    ]
    said = (
        f"Every target is ranked among all {data.facts.num_items:,} items of the "
        f"catalog, for {best.num:,} users. Intervals come from a paired bootstrap over "
        "users: they say how much other users would change a mean, not how much other "
        "seeds of training would. A difference whose interval excludes 0 is beyond the "
        "chance of the draw of users."
    )
    return section(
        "accuracy", "Accuracy", note(said), legend(legend_names(data.systems)),
        element("div", *figures, class_="charts"), tables[0],
        details("With seen items kept", tables[1]),
        *(note(f"No baseline {name}: {why}.") for name, why in data.left_out.items()),
    )  # fmt: skip


def ndcg_intervals(data: ReportData) -> list[Interval]:
    """Returns NDCG@10 of each system with its interval, seen items filtered."""
    return data.bootstrap.means(_gains(data))


def _gains(data: ReportData) -> Float32[np.ndarray, "user system"]:
    return np.stack([gains(one.ranks, 10) for one in data.systems], axis=1)


def _labels(data: ReportData) -> list[str]:
    return [one.label for one in data.systems]


def _about(names: list[str], intervals: list[Interval]) -> str:
    said = (f"{n} {i.mean:.4f}" for n, i in zip(names, intervals, strict=True))
    return "NDCG@10 on all users: " + ", ".join(said)


def _metric_table(data: ReportData, side: int) -> str:
    rows = []
    for one in data.systems:
        found = user_metrics(one.ranks[:, side], CUTOFFS)
        intervals = data.bootstrap.means(
            np.stack([found[name] for name in _SHOWN], axis=1)
        )
        rows.append([one.label, *(spelled(interval) for interval in intervals)])
    seen = "left out" if side == 0 else "kept"
    return table(
        ["", *(name.replace("recall", "Recall").replace("ndcg", "NDCG")
               .replace("mrr", "MRR") for name in _SHOWN)],
        rows,
        f"Means over users, items of the history {seen} (95% interval)",
        kinds_of(data.systems),
    )  # fmt: skip


def spelled(one: Interval) -> str:
    """Returns a mean with its interval."""
    return f"{one.mean:.4f} ({one.low:.3f} to {one.high:.3f})"


def _at_k(data: ReportData, name: str) -> str:
    series = []
    for one, kind in zip(data.systems, kinds_of(data.systems), strict=True):
        found = user_metrics(one.ranks[:, 0], _KS)
        ys = [float(found[f"{name}@{k}"].mean()) for k in _KS]
        series.append(Series(one.label, kind, _KS, ys))
    title = {"recall": "Recall@K", "ndcg": "NDCG@K"}[name]
    last = ", ".join(f"{one.label} {one.ys[-1]:.3f}" for one in series)
    return line_chart(
        series, "K", title, log_x=True, x_ticks=CUTOFFS, about=f"{title} at 50: {last}"
    )


def _differences(data: ReportData) -> str:
    """The first run minus each of the others; empty if there are no others."""
    values, kinds = _gains(data), kinds_of(data.systems)
    if len(data.systems) < 2:
        return ""
    intervals = data.bootstrap.means(values[:, :1] - values[:, 1:])
    rows = [
        IntervalRow(f"minus {one.label}", [(one.label, kind, interval)])
        for one, kind, interval in zip(
            data.systems[1:], kinds[1:], intervals, strict=True
        )
    ]
    said = ", ".join(f"{r.label} {r.dots[0][2].mean:+.4f}" for r in rows)
    return interval_chart(rows, "difference of NDCG@10", about=f"Differences: {said}")
