"""The classes that colour systems, the same in all pictures of a report."""

from collections.abc import Sequence

from eqids.reporting.report_data import System

NUM_RUNS = 6
"""Colours of runs; later runs repeat them."""
NUM_BASELINES = 4
"""Kinds of grey lines, of the baselines."""


def kinds_of(systems: Sequence[System]) -> list[str]:
    """Returns the class of each system: `r0` of the first run, `b0` of a baseline."""
    found, runs, baselines = [], 0, 0
    for one in systems:
        if one.run is None:
            found.append(f"b{baselines % NUM_BASELINES}")
            baselines += 1
        else:
            found.append(f"r{runs % NUM_RUNS}")
            runs += 1
    return found


def legend_names(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Returns label and class of each system, for a legend."""
    return [
        (one.label, kind) for one, kind in zip(systems, kinds_of(systems), strict=True)
    ]
