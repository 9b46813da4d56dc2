"""The result of `python -m bench quality` as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench import machine
from bench.quality_options import QualityOptions
from bench.quality_tables import SHOWN, QualityRow, QualityTable
from eqids.config import to_json


def quality_json(
    tables: Sequence[QualityTable], options: QualityOptions
) -> dict[str, Any]:
    """Returns all tables with their flags, machine and versions, as JSON values."""
    return {
        "quality": {"tables": [_table(table) for table in tables]},
        "config": to_json(options),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def _table(table: QualityTable) -> dict[str, Any]:
    values = dataclasses.asdict(table)
    for kind in ("baselines", "settings"):
        values[kind] = [_row(row) for row in getattr(table, kind)]
    return values


def _row(row: QualityRow) -> dict[str, Any]:
    return {
        **dataclasses.asdict(row),
        "mean": {name: row.mean(name) for name in SHOWN},
        "deviation": {name: row.deviation(name) for name in SHOWN},
    }
