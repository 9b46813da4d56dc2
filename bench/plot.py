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
    """Draws a curve, both axes logarithmic, into a PNG file; of one size, bars."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(curve.series)
    sizes = {x for points in curve.series.values() for x, _ in points}
    figure = Figure(figsize=(8, 4.5 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    color = matplotlib.colormaps["tab20"]
    if len(sizes) == 1:
        values = [points[0][1] for points in curve.series.values()]
        bars = axes.barh(names, values, color=color(0))
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel=f"{curve.y} ({curve.x}: {sizes.pop():,.0f})")
    else:
        for number, (name, points) in enumerate(curve.series.items()):
            x, y = zip(*sorted(points), strict=True)
            marker = "os^Dv"[number // 20 % 5]
            axes.plot(x, y, label=name, color=color(number % 20), marker=marker)
        axes.set(xscale="log", yscale="log", xlabel=curve.x, ylabel=curve.y)
        figure.legend(loc="outside lower center", fontsize="small")
    axes.set_title(curve.title)
    axes.grid(alpha=0.3)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=150)
    partial.replace(path)
