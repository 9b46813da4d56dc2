"""The section of a report about training: loss and validation over the steps."""

from eqids.reporting.charts import Series, line_chart
from eqids.reporting.html_parts import figure, legend, note, section
from eqids.reporting.kinds import kinds_of, legend_names
from eqids.reporting.report_data import ReportData, System
from eqids.reporting.svg import element

MOST_POINTS = 400
"""Most points of a line; longer logs are thinned evenly, the last point kept."""

_CURVES = (
    ("loss", "Training loss", "nats", False),
    ("valid_ndcg@10", "NDCG@10 on validation", "NDCG@10", True),
    ("valid_nll", "Negative log-likelihood on validation", "nats", False),
    ("targets_per_s", "Targets a second", "targets/s", True),
)


def training(data: ReportData) -> str:
    """Returns the section of a run's curves."""
    figures = []
    for name, caption, unit, zero in _CURVES:
        series = [
            one
            for system, kind in zip(data.runs, kinds_of(data.runs), strict=True)
            if (one := _curve(system, kind, name)) is not None
        ]
        if series:
            ends = ", ".join(f"{s.label} ends at {s.ys[-1]:.4g}" for s in series)
            chart = line_chart(
                series, "step", unit, about=f"{caption}: {ends}", zero=zero
            )
            figures.append(figure(chart, caption))
    if not figures:
        said = "The runs' folders have no metrics.jsonl, so there are no curves."
        return section("training", "Training", note(said))
    steps = ", ".join(
        f"step {one.run.step:,} of {one.label}" for one in data.runs if one.run
    )
    said = f"All else in this report is about {steps}, best on validation unless named."
    parts = [note(said)]
    if len(data.runs) > 1:
        parts.append(legend(legend_names(data.runs)))
    return section(
        "training", "Training", *parts, element("div", *figures, class_="charts")
    )


def _curve(system: System, kind: str, name: str) -> Series | None:
    """The values of one metric over the steps; of a repeated step the newest."""
    assert system.run is not None
    found = {
        int(line["step"]): float(line[name])
        for line in system.run.curves
        if isinstance(line.get(name), int | float)
    }
    if not found:
        return None
    xs = sorted(found)
    stride = -(-len(xs) // MOST_POINTS)
    kept = sorted({*xs[::stride], xs[-1]})
    dots = len(kept) <= 40
    return Series(system.label, kind, kept, [found[x] for x in kept], dots=dots)
