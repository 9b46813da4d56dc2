"""Draws the tables of `python -m bench quality`: dots with error bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.quality_markdown import TITLES, heading
from bench.quality_tables import COMPARED, QualityTable
from eqids.io.atomic import new_file

_METRIC = COMPARED[0]
_OURS, _COUNTED, _PUBLISHED = "tab:blue", "0.35", "tab:orange"


def draw_quality(tables: Sequence[QualityTable], path: Path) -> None:
    """Draws a panel for each table of the last split that was ranked.

    Settings and baselines are dots, with the standard deviation over seeds; published
    figures are thin marks.

    Args:
        tables: the tables.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    last = tables[-1].split
    shown = [table for table in tables if table.split == last]
    heights = [_num_rows(table) + 2 for table in shown]
    figure = Figure(figsize=(8, 0.26 * sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(
        len(shown), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for table, axes in zip(shown, panels[:, 0], strict=True):
        _panel(table, axes)
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _num_rows(table: QualityTable) -> int:
    return len(table.baselines) + len(table.settings) + len(table.published)


def _panel(table: QualityTable, axes: Any) -> None:
    """Draws one table, the best row of each kind at the top."""
    labels = list[str]()
    for rows, color in ((table.settings, _OURS), (table.baselines, _COUNTED)):
        for row in sorted(rows, key=lambda row: -row.mean(_METRIC)):
            spread = row.deviation(_METRIC)
            axes.errorbar(
                row.mean(_METRIC), len(labels), xerr=spread, fmt="o", color=color,
                markersize=6, capsize=3,
            )  # fmt: skip
            labels.append(row.name)
    for one in sorted(table.published, key=lambda one: -one.metrics[_METRIC]):
        axes.plot(
            one.metrics[_METRIC], len(labels), "|", color=_PUBLISHED, markersize=11,
            markeredgewidth=2,
        )  # fmt: skip
        labels.append(f"{one.model} (published)")
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.margins(y=0.6 / max(len(labels), 1))
    axes.set_xlabel(TITLES[_METRIC])
    axes.set_title(heading(table), loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
