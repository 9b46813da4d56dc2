"""The section of a report about probabilities: calibration and likelihood."""

import numpy as np

from eqids.fit.calibration import (
    Reliability,
    calibrated_error,
    list_confidence,
    num_bins,
    reliability,
)
from eqids.reporting.charts import Series, line_chart
from eqids.reporting.html_parts import figure, legend, note, section, table
from eqids.reporting.kinds import kinds_of, legend_names
from eqids.reporting.report_data import ReportData
from eqids.reporting.svg import element

_KS = (1, 10)
_Z = 1.96


def calibration(data: ReportData) -> str:
    """Returns the section of reliability diagrams, calibration errors and NLL."""
    figures, rows, bins = [], [], num_bins(len(data.users))
    for k in _KS:
        picture, errors = _diagram(data, k)
        of = (
            "the most probable item" if k == 1 else f"among the {k} most probable items"
        )
        figures.append(figure(picture, f"The next item is {of}"))
        rows += errors
    numbers = table(
        ["", "K", "predicted", "observed", "ECE", "ECE if calibrated", "reading"], rows,
        f"Expected calibration error, {bins} bins of equally many users",
        kinds_of(data.runs) * len(_KS),
    )  # fmt: skip
    said = (
        "The probabilities are exact and sum to 1 over the catalog, so what the K most "
        "probable items have together can be compared with how often the next item is "
        "one of them. Each point is about equally many users, with a 95% interval; on "
        "the diagonal the model is calibrated, below it overconfident. Seen items are "
        "kept here. With few users even a calibrated model has an error above 0, which "
        "the table shows beside."
    )
    parts = [note(said)]
    if len(data.runs) > 1:
        parts.append(legend(legend_names(data.runs)))
    return section(
        "calibration", "Calibration", *parts,
        element("div", *figures, class_="charts"), numbers, _likelihoods(data),
    )  # fmt: skip


def _diagram(data: ReportData, k: int) -> tuple[str, list[list[str]]]:
    """The reliability diagram of the first K items, and a table's row for each run."""
    series, rows = [], []
    for one, kind in zip(data.runs, kinds_of(data.runs), strict=True):
        assert one.run is not None
        confidence, hits = list_confidence(one.run.found.unfiltered, data.target, k)
        found = reliability(confidence, hits)
        series.append(_series(one.label, kind, found))
        numbers = (
            confidence.mean(),
            hits.mean(),
            found.error,
            calibrated_error(confidence),
        )
        rows.append([one.label, str(k), *map("{:.4f}".format, numbers), verdict(found)])
    about = f"Reliability of the first {k}: " + "; ".join(
        f"{row[0]} predicts {row[2]}, observed {row[3]}, error {row[4]}" for row in rows
    )
    chart = line_chart(
        series, "predicted probability", "observed frequency", about=about, square=True
    )
    return chart, rows


def verdict(found: Reliability) -> str:
    """Returns whether predictions are too high or too low, beyond two standard
    errors of the observed frequency."""
    num = int(found.num.sum())
    observed = float(found.num @ found.frequency) / num
    error = np.sqrt(max(observed * (1 - observed), 1 / num) / num)
    if abs(found.overconfidence) <= 2 * error:
        return "no sign of over- or underconfidence"
    return "overconfident" if found.overconfidence > 0 else "underconfident"


def _series(label: str, kind: str, found: Reliability) -> Series:
    """A line with Wilson's intervals of the frequencies."""
    p, n = found.frequency, found.num
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Series(
        label, kind, found.confidence.tolist(), p.tolist(),
        np.maximum(middle - half, 0).tolist(), np.minimum(middle + half, 1).tolist(),
        dots=True,
    )  # fmt: skip


def _likelihoods(data: ReportData) -> str:
    own = {}
    for one in data.runs:
        assert one.run is not None
        log_probs = one.run.found.ranked[:, 2:]
        own[one.label] = float(-log_probs.mean())
    found = data.likelihoods
    baselines = {
        f"Markov, {found.markov_weight:.2f} of it mixed with popularity": found.markov,
        "popularity (counts + 1)": found.popularity,
        "all items alike": found.uniform,
    }
    rows = [
        [name, f"{value:.4f}", f"{np.exp(value):,.1f}"]
        for name, value in {**own, **baselines}.items()
    ]
    return table(
        ["", "NLL (nats)", "perplexity"], rows,
        "Negative log-likelihood of the next item: lower is better. The mixture's "
        "weight was fitted on validation",
        kinds_of(data.runs),
    )  # fmt: skip
