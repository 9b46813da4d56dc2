"""Curves as PNG files."""

import importlib.util
from pathlib import Path

from bench.record import Curve
from eqids.config import require


def check_plotting() -> None:
    """Raises UserError where matplotlib is not installed."""
    require(
        importlib.util.find_spec("matplotlib") is not None,
        "--plot needs matplotlib, wanted: pip install 'eqids[bench]'",
    )


def save(curve: Curve, path: Path) -> None:
    """Draws a curve, both axes logarithmic, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in curve.series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(title=curve.title, xlabel=curve.x, ylabel=curve.y)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
