"""The section of a report about groups of users and of targets."""

from collections.abc import Sequence

import numpy as np

from eqids.reporting.charts import IntervalRow, interval_chart
from eqids.reporting.html_parts import figure, legend, note, section, table
from eqids.reporting.kinds import kinds_of
from eqids.reporting.report_data import ReportData, System, gains
from eqids.reporting.sections_accuracy import spelled
from eqids.reporting.slices import Division
from eqids.reporting.svg import element

_MUCH = 0.1
"""A share of seen targets, or a difference of shares, that needs a sentence."""
_FEW = 20
"""Groups of fewer users say nothing about shares."""


def slices(data: ReportData) -> str:
    """Returns the section of NDCG@10 by groups of users and of targets."""
    best = max(data.baselines, key=_score, default=None)
    shown = [*data.runs, *([best] if best is not None else [])]
    labels = [one.label for one in data.systems]
    kinds = dict(zip(labels, kinds_of(data.systems), strict=True))
    drawn = [one for one in data.divisions if len(one.groups) > 1]
    said = (
        "The same users and targets in groups, items of the history left out. Groups "
        "of a number hold about equally many users. Wide intervals mean few users."
    )
    return section(
        "slices", "For whom it works", note(said), *map(note, _seen(data, drawn)),
        *map(note, _not_drawn(data.divisions)),
        legend([(system.label, kinds[system.label]) for system in shown]),
        element("div", *(_figure(data, one, shown, kinds) for one in drawn),
                class_="charts"),
    )  # fmt: skip


def _figure(
    data: ReportData, one: Division, shown: Sequence[System], kinds: dict[str, str]
) -> str:
    """The intervals of each group, and a table of them."""
    values = np.stack([gains(system.ranks, 10) for system in shown], axis=1)
    rows, cells = [], []
    for group in one.groups:
        intervals = data.bootstrap.means(values, group.members)
        dots = [
            (system.label, kinds[system.label], interval)
            for system, interval in zip(shown, intervals, strict=True)
        ]
        num = f"{intervals[0].num:,}"
        seen = percent(data.target_seen[group.members].mean())
        users = "user" if num == "1" else "users"
        rows.append(IntervalRow(group.name, dots, f"{num} {users}, {seen} seen"))
        cells.append([group.name, num, seen, *map(spelled, intervals)])
    numbers = table(
        [one.title, "users", "targets seen", *(system.label for system in shown)],
        cells, f"NDCG@10 by: {one.title}",
    )  # fmt: skip
    about = f"NDCG@10 by {one.title}: " + ", ".join(
        f"{row.label} {row.dots[0][2].mean:.3f}" for row in rows
    )
    return figure(interval_chart(rows, "NDCG@10", about=about), one.title, numbers)


def percent(share: float) -> str:
    """Returns a share in percent; one that rounds to 0 is shown as below 1."""
    return "< 1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def _seen(data: ReportData, drawn: Sequence[Division]) -> list[str]:
    """What the filter of seen items does to the groups, if it does much."""
    overall, widest, most = data.target_seen.mean(), "", 0.0
    for one in drawn:
        shares = sorted(
            (float(data.target_seen[group.members].mean()), group.name)
            for group in one.groups
            if group.members.sum() >= _FEW
        )
        if shares and shares[-1][0] - shares[0][0] > most:
            (low, least), (high, name) = shares[0], shares[-1]
            most = high - low
            widest = (
                f"{one.title}: {percent(low)} of the targets of the group "
                f"{least}, {percent(high)} of {name}"
            )
    if max(overall, most) <= _MUCH:
        return []
    said = (
        f"{percent(overall)} of the targets are items that the user had before "
        '("seen"). Seen items are filtered here, so these targets count as missed'
    )
    if most > _MUCH:
        said += f"; a group with more of them is lower for that reason alone ({widest})"
    return [
        f"{said}. Seen items are kept in the second table of Accuracy and in the rows "
        '"seen kept" of python -m eqids.evaluate: where users take items again, '
        "compare by these, and recommend with --keep_seen."
    ]


def _not_drawn(found: Sequence[Division]) -> list[str]:
    alone = [one for one in found if len(one.groups) == 1]
    named = ", ".join(f"{one.title} ({one.groups[0].name})" for one in alone)
    return [f"Not drawn, because all users are in one group: {named}."] if named else []


def _score(one: System) -> float:
    return float(gains(one.ranks, 10).mean())
