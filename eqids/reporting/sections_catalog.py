"""Sections of a report about what is recommended: coverage, bias, the map."""

import numpy as np

from eqids.fit.list_metrics import LIST_METRICS, list_metrics
from eqids.reporting.charts import Series, line_chart, point_chart
from eqids.reporting.html_parts import (
    column,
    facts,
    figure,
    legend,
    note,
    section,
    table,
)
from eqids.reporting.item_titles import ItemTitles
from eqids.reporting.kinds import kinds_of, legend_names
from eqids.reporting.report_data import ReportData
from eqids.reporting.svg import element

_NAMES = ("coverage", "gini", "novelty", "popularity", "diversity", "serendipity")
_K = 10
_PARTS = 10
"""Parts of the catalog by popularity."""


def catalog(data: ReportData) -> str:
    """Returns the section of metrics of lists."""
    found = [
        list_metrics(one.lists.slots, data.target, data.facts, _NAMES, [_K])
        for one in data.systems
    ]
    columns = [column([one[f"{name}@{_K}"] for one in found]) for name in _NAMES]
    rows = [
        [one.label, *cells] for one, *cells in zip(data.systems, *columns, strict=True)
    ]
    numbers = table(
        ["", *(f"{name.capitalize()}@{_K}" for name in _NAMES)], rows,
        "Metrics of the recommended lists, seen items left out",
        kinds_of(data.systems),
    )  # fmt: skip
    figures = [
        figure(_bias(data), "Popularity bias: share of recommendations by popularity"),
        figure(_exposure(data), "Inequality: share of recommendations by exposure"),
    ]
    meaning = {name.capitalize(): LIST_METRICS[name] for name in _NAMES}
    names = [("what users took next", "t0"), *legend_names(data.systems)]
    return section(
        "catalog", "What is recommended", legend(names),
        element("div", *figures, class_="charts"), numbers, facts(meaning),
    )  # fmt: skip


def _bias(data: ReportData) -> str:
    """Shares of recommendations, and of targets, in tenths of the catalog."""
    slots = np.flatnonzero(data.dataset.item_valid)
    order = slots[np.argsort(-data.facts.events[slots], kind="stable")]
    tenth = np.full(len(data.facts.events), -1)
    for part, members in enumerate(np.array_split(order, _PARTS)):
        tenth[members] = part
    xs = [10 * (part + 1) for part in range(_PARTS)]

    def share(items: np.ndarray) -> list[float]:
        # A target may be retired since, and a list may be short.
        parts = tenth[items[items >= 0]]
        counts = np.bincount(parts[parts >= 0], minlength=_PARTS)
        return (counts / max(counts.sum(), 1)).tolist()

    series = [Series("what users took next", "t0", xs, share(data.target), dots=True)]
    for one, kind in zip(data.systems, kinds_of(data.systems), strict=True):
        ys = share(one.lists.slots[:, :_K].reshape(-1))
        series.append(Series(one.label, kind, xs, ys))
    about = "Share of the most popular tenth of the items: " + ", ".join(
        f"{one.label} {one.ys[0]:.2f}" for one in series
    )
    return line_chart(
        series, "items, the most popular first (%)", "share of each tenth", about=about,
        x_ticks=xs,
    )  # fmt: skip


def _exposure(data: ReportData) -> str:
    """Lorenz curves of how often items are recommended."""
    series, xs = [], np.linspace(0, 1, 51)
    for one, kind in zip(data.systems, kinds_of(data.systems), strict=True):
        top = one.lists.slots[:, :_K]
        counts = np.sort(np.bincount(top[top >= 0], minlength=1))[::-1]
        held = np.concatenate([[0], np.cumsum(counts[: data.facts.num_items])])
        at = np.minimum(xs * data.facts.num_items, len(held) - 1).astype(int)
        ys = (held[at] / max(held[-1], 1)).tolist()
        series.append(Series(one.label, kind, (100 * xs).tolist(), ys))
    about = "Share of recommendations that go to a tenth of the items: " + ", ".join(
        f"{one.label} {one.ys[5]:.2f}" for one in series
    )
    return line_chart(
        series, "items, the most recommended first (%)", "share of recommendations",
        about=about,
    )  # fmt: skip


def item_map(data: ReportData, titles: ItemTitles) -> str:
    """Returns the section of the map of the catalog, of the first run."""
    run = data.runs[0]
    assert run.run is not None
    shown = run.run.map
    counts = data.facts.events[shown.slots]
    sizes = (1.6 + 3.4 * np.sqrt(counts / max(counts.max(), 1))).tolist()
    names = [titles.of(slot) for slot in shown.slots.tolist()]
    picture = point_chart(
        shown.position, shown.cluster, names, sizes,
        about=f"Map of the {len(names):,} most popular items of {run.label}",
    )  # fmt: skip
    made = "one of 24 clusters made for the map"
    colour = "a cluster of the model" if data.dataset.info.num_clusters > 1 else made
    said = (
        f"The {len(names):,} most popular of {data.facts.num_items:,} items by the "
        f"first two principal components of their vectors in {run.label}. A colour is "
        f"{colour}; larger points have more training events. The largest clusters "
        "have the title of their most popular item. Rest the pointer on a point for "
        "its title."
    )
    whole = element("figure", picture, class_="whole")
    return section("map", "Map of the catalog", note(said), whole)
