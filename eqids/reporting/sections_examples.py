"""The section of a report that shows users, their history and what they would get."""

import numpy as np
from jaxtyping import Int

from eqids.data.raw.times import date
from eqids.fit.evaluation import targets_of
from eqids.reporting.html_parts import details, legend, note, section
from eqids.reporting.item_titles import ItemTitles
from eqids.reporting.kinds import kinds_of, legend_names
from eqids.reporting.report_data import ReportData, System
from eqids.reporting.svg import element, escaped

_HISTORY = 10
"""Events of the history that are shown, the newest."""
_SHOWN = 10
"""Recommended items that are shown."""


def examples(data: ReportData, titles: ItemTitles) -> str:
    """Returns the section of users that were drawn at random; empty for no users."""
    most = min(data.config.examples, len(data.users))
    if not most:
        return ""
    rng = np.random.default_rng(data.config.seed)
    drawn = np.sort(rng.choice(len(data.users), most, replace=False))
    names = data.dataset.users()["user"]
    shown = [
        _user(data, titles, row, str(names.iloc[data.users[row]]))
        for row in drawn.tolist()
    ]
    said = (
        f"{most} users, drawn at random (not chosen), with the newest events of their "
        "history, what they took next, and what would have been recommended instead of "
        "seen items. A bar is the probability that an item is the next."
    )
    parts = [note(said)]
    if len(data.runs) > 1:
        parts.append(legend(legend_names(data.runs)))
    return section("examples", "Example users", *parts, *shown)


def _user(data: ReportData, titles: ItemTitles, row: int, name: str) -> str:
    target = int(data.target[row])
    found = "; ".join(f"{one.label}: {_rank(one.ranks[row, 0])}" for one in data.runs)
    head = f"User {name}: took {titles.of(target)} ({found})"
    past = element(
        "div",
        element("h3", f"History, newest first ({_length(data, row):,} events)"),
        element("ol", *_history(data, titles, row)),
    )
    columns = [
        element(
            "div",
            element("h3", escaped(one.label)),
            element("ol", *_list(one, titles, row, target), class_="answer " + kind),
        )
        for one, kind in zip(data.runs, kinds_of(data.runs), strict=True)
    ]
    return details(head, element("div", past, *columns, class_="columns"))


def _rank(rank: float) -> str:
    if np.isinf(rank):
        return "seen before, so left out"
    return f"rank {rank:,.0f}" if float(rank).is_integer() else f"rank {rank:,.1f}"


def _length(data: ReportData, row: int) -> int:
    return int(targets_of(data.dataset, data.split)[1][row])


def _history(data: ReportData, titles: ItemTitles, row: int) -> list[str]:
    dataset, length = data.dataset, _length(data, row)
    start = int(dataset.offsets[data.users[row]])
    events: Int[np.ndarray, " event"] = np.arange(start, start + length)
    found = []
    for event in events[::-1][:_HISTORY].tolist():
        when = ""
        if dataset.times is not None:
            when = element("small", f" {date(int(dataset.times[event]))}")
        title = element("span", escaped(titles.of(int(dataset.slots[event]))))
        found.append(element("li", title, when))
    return found


def _list(one: System, titles: ItemTitles, row: int, target: int) -> list[str]:
    assert one.lists.log_probs is not None
    slots = one.lists.slots[row, :_SHOWN].tolist()
    shares = np.exp(one.lists.log_probs[row, :_SHOWN].astype(np.float64)).tolist()
    largest, found = max(shares, default=0.0) or 1.0, []
    for slot, share in zip(slots, shares, strict=True):
        if slot < 0:
            continue
        hit = slot == target
        mark = element("strong", " taken next") if hit else ""
        bar = element("i", " ", style=f"width:{100 * share / largest:.1f}%")
        found.append(
            element(
                "li", element("span", escaped(titles.of(slot)), mark),
                element("small", "< 0.01%" if share < 5e-5 else f"{share:.2%}"),
                element("span", bar, class_="bar", aria_hidden="true"),
                class_="hit" if hit else None,
            )
        )  # fmt: skip
    return found
