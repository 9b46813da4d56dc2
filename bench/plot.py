"""Curves as PNG files."""

import importlib.util
from pathlib import Path

from bench.record import Curve
from eqids.config import require
from eqids.io.atomic import new_file


def check_plotting() -> None:
    """Raises UserError where matplotlib is not installed."""
    require(
        importlib.util.find_spec("matplotlib") is not None,
        "--plot needs matplotlib, wanted: pip install 'eqids[bench]'",
    )


def save(curve: Curve, path: Path) -> None:
    """Draws a curve into a PNG file, both axes logarithmic; bars where all are points.

    Args:
        curve: what to draw.
        path: of the file.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5 + 0.2 * len(curve.series)), layout="constrained")
    axes = figure.subplots()
    if all(len(points) == 1 for points in curve.series.values()):
        named = {f"{name} ({x:,.0f})": y for name, [(x, y)] in curve.series.items()}
        bars = axes.barh(list(named), list(named.values()))
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.set(xlabel=curve.y, ylabel=f"({curve.x})")
        axes.grid(axis="x", alpha=0.3)
    else:
        color = matplotlib.colormaps["tab20"]
        for number, (name, points) in enumerate(curve.series.items()):
            x, y = zip(*sorted(points), strict=True)
            marker = "os^Dv"[number // 20 % 5]
            axes.plot(x, y, label=name, color=color(number % 20), marker=marker)
        axes.set(xscale="log", yscale="log", xlabel=curve.x, ylabel=curve.y)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize="small")
    axes.set_title(curve.title)
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
