"""The tables of `python -m bench quality` as Markdown."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.paired_bootstrap import DRAWS, PairedDifference
from bench.quality_settings import Setting
from bench.quality_tables import COMPARED, SHOWN, QualityRow, QualityTable
from eqids.config import require
from eqids.io.atomic import new_file

BEGIN = "<!-- python -m bench quality: begin -->"
END = "<!-- python -m bench quality: end -->"
"""Marker lines around what a file's next version replaces."""

TITLES: Mapping[str, str] = {
    "recall@10": "Recall@10",
    "ndcg@10": "NDCG@10",
    "mrr@10": "MRR@10",
    "recall@50": "Recall@50",
    "ndcg@50": "NDCG@50",
    "mrr@50": "MRR@50",
}


def markdown(
    tables: Sequence[QualityTable],
    settings: Mapping[str, Setting],
    words: Sequence[str],
) -> str:
    """Returns all tables, with the commands that made them.

    Args:
        tables: the tables.
        settings: the settings of their rows.
        words: the flags of this bench.
    """
    lines = [f"Measured by `{_typed('bench', words)}`.", ""]
    for table in tables:
        lines += [*_table(table), ""]
    used = dict.fromkeys(row.name for table in tables for row in table.settings)
    lines += ["The settings, each with `--data_dir` and `--seed`:", ""]
    for name in used:
        note = f" ({settings[name].note})" if settings[name].note else ""
        command = _typed("eqids.train", settings[name].train)
        lines.append(f"- {name}: `{command}`{note}")
    return "\n".join(lines)


def _typed(module: str, words: Sequence[str]) -> str:
    """Returns a command as it is typed; of absolute paths only the last name."""
    named = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(["python", "-m", module, *named])


def write_markdown(path: Path, text: str) -> None:
    """Writes tables between two marker lines of a file, or as a new file.

    Raises:
        UserError: the file exists without the marker lines, or cannot be written.
    """
    before, after = "", "\n"
    if path.exists():
        before, after = _around(path)
    with new_file(path) as partial:
        whole = f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
        partial.write_text(whole, encoding="utf-8")


def check_markdown(path: Path | None) -> None:
    """Raises UserError if `write_markdown` would refuse an existing file."""
    if path is not None and path.exists():
        _around(path)


def _around(path: Path) -> tuple[str, str]:
    """The text before and after what is replaced."""
    whole = path.read_text(encoding="utf-8")
    require(
        whole.count(BEGIN) == whole.count(END) == 1
        and whole.index(BEGIN) < whole.index(END),
        f"--output {path} exists without the lines {BEGIN} and {END}, wanted them "
        "where the tables go, or a new file",
    )
    return whole[: whole.index(BEGIN)], whole[whole.index(END) + len(END) :]


def heading(table: QualityTable) -> str:
    """Returns the title of a table."""
    knows = ", with the time of the request" if table.request_time else ""
    return f"{table.data}, {table.split} split{knows}"


def _table(table: QualityTable) -> Iterator[str]:
    yield f"### {heading(table)}"
    yield ""
    yield (
        f"{table.num_users:,} users, full catalog, seen items filtered; mean ± "
        "standard deviation over seeds."
    )
    yield ""
    names = ["", "seeds", *(TITLES[name] for name in SHOWN), "minutes", "parameters"]
    sources = [one.source for one in table.published]
    if sources:
        names.append("source")
    yield from _lines(names, _rows(table))
    if any(row.differences for row in table.settings):
        yield ""
        yield (
            "Paired differences over users, seeds averaged, with the 95% interval of a "
            f"bootstrap of {DRAWS:,} draws and its standard error (SE):"
        )
        yield ""
        metrics = [f"{TITLES[m]}{part}" for m in COMPARED for part in ("", " SE")]
        yield from _lines(
            ["", "against", *metrics, "seeds ahead of all baselines"],
            [cells for row in table.settings for cells in _differences(row)],
        )
    yield ""
    yield " ".join(table.notes)


def _lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; short rows end with empty cells."""
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        cells = [*row, *[""] * (len(names) - len(row))]
        yield f"| {' | '.join(cells)} |"


def _rows(table: QualityTable) -> list[list[str]]:
    """Baselines, settings and published figures; the best setting is bold."""
    rows = [[row.name, "", *_means(row)] for row in table.baselines]
    best = max(table.settings, key=lambda row: row.mean(COMPARED[0]))
    for row in table.settings:
        cost = ["" if row.seconds is None else f"{row.seconds / 60:.1f}"]
        cost.append("" if row.parameters is None else f"{row.parameters:,}")
        name = f"**{row.name}**" if row is best else row.name
        rows.append([name, str(len(row.by_seed)), *_means(row), *cost])
    for one in table.published:
        cells = [_number(one.metrics[m]) if m in one.metrics else "" for m in SHOWN]
        rows.append([one.model, "", *cells, "", "", one.source])
    return rows


def _means(row: QualityRow) -> Iterator[str]:
    for metric in SHOWN:
        deviation = row.deviation(metric)
        spread = "" if deviation is None else f" ± {_number(deviation)}"
        yield f"{_number(row.mean(metric))}{spread}"


def _differences(row: QualityRow) -> Iterator[list[str]]:
    """A line for each row that a setting is compared with."""
    for other, metrics in row.differences.items():
        cells = [part for m in COMPARED for part in _difference(metrics[m])]
        ahead = "" if row.ahead is None else f"{row.ahead} of {len(row.by_seed)}"
        yield [row.name, other, *cells, ahead]


def _difference(found: PairedDifference) -> tuple[str, str]:
    low, high = (_number(x, "+") for x in (found.low, found.high))
    return f"{_number(found.mean, '+')} ({low} to {high})", _number(
        found.standard_error
    )


def _number(x: float, sign: str = "") -> str:
    """Four digits without the zero before the point."""
    return f"{x:{sign}.4f}".replace("0.", ".", 1)
