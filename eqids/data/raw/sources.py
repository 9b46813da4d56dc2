"""Sources of interactions: files that DuckDB reads, as Ibis tables."""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.config import PrepareConfig, require
from eqids.data.info import TextsInfo
from eqids.data.raw.cells import Cells
from eqids.data.raw.collected_events import joined_events
from eqids.data.raw.engine import Engine
from eqids.data.raw.fetch import fetch_movielens, unpack
from eqids.data.raw.item_rows import ItemRows, item_rows, require_column, with_year
from eqids.data.raw.spark_tables import SparkTables, require_readable
from eqids.data.raw.tables import (
    FileTable,
    atomic,
    delimited,
    parquet,
    table_of_file,
    with_header,
)
from eqids.data.raw.template import cell_of, field as field_of, text_of
from eqids.data.read import open_dataset

_GENRES = (
    "Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_COMPARED = ("time", "order", "rating")
_RATED = ("user_id", "item_id", "rating", "timestamp")
_FILM = TextsInfo("{title} ({year}), {genres}", year_in_title=True)
"""The default template of texts of films."""


@dataclass(frozen=True)
class Source:
    """Interactions and titles, not read yet."""

    file: Path
    """The file of interactions, for messages."""
    columns: Mapping[str, str]
    """The file's names of user and item, and of time, order and rating if they
    exist."""
    events: ir.Table
    """Those columns as user, item, time, order, rating, and `row` in the file's
    order."""
    spelled: bool
    """Whether every value is text, as in CSV; it may spell a number."""
    items: ItemRows | None = None
    """Titles and texts, or none."""
    keeps_ties: bool = False
    """Whether events with equal times happened in the order of the rows, even if their
    ids ascend."""
    has_order: bool = True
    """Whether the rows have an order, which a file's have and a database's have not."""
    kinds: Mapping[str, Any] = field(default_factory=dict)
    """Types of user and item in the file, where an engine reads them as others; Ibis
    types."""


def open_source(
    engine: Engine, config: PrepareConfig, report: Callable[[str], None]
) -> Source:
    """Opens the tables that `config.source` names.

    Args:
        engine: reads the files.
        config: source, columns and the file of titles.
        report: receives messages about what is fetched.

    Raises:
        UserError: a file or column does not exist or cannot be read.
    """
    kind, _, path = config.source.partition(":")
    # If --items is given, --text names its columns.
    own = config if config.items is None else replace(config, text=None)
    if kind in _MOVIELENS:
        archive = Path(path) if path else fetch_movielens(kind, report)
        source = _MOVIELENS[kind](engine, own, archive)
    elif kind == "events" and path:
        source = _from_events(engine, config, Path(path), report)
    else:
        require(
            kind in _FILES and bool(path),
            f"--source is {config.source!r}, wanted {_meant(config.source)}",
        )
        source = _FILES[kind](engine, own, Path(path))
    if config.items is not None:
        return replace(source, items=_titles(engine, config))
    require(
        config.text is None or source.items is not None,
        "--text needs --items, the file whose columns it names",
    )
    return source


def _from_csv(engine: Engine, config: PrepareConfig, path: Path) -> Source:
    needed = _named_columns(config)
    if config.order_column is not None:
        needed.pop("time", None)
    table = with_header(engine, path, list(needed.values()))
    return _events(path, table, _columns_of(config, table), spelled=True)


def _from_parquet(engine: Engine, config: PrepareConfig, path: Path) -> Source:
    table = parquet(engine, path)
    columns = _columns_of(config, table)
    source = _events(path, table, columns, spelled=False)
    moments = [source.events[name] for name in _COMPARED if name in columns]
    # Engines differ in which texts are times: DuckDB reads those.
    if not any(column.type().is_string() for column in moments):
        named = {n: (columns[n], source.events[n].type()) for n in columns}
        found = engine.tables.read_parquet(table.parts, named, "row")
        if found is not None:
            kinds = {name: source.events[name].type() for name in ("user", "item")}
            return replace(source, events=found, kinds=kinds)
    return source


def _from_table(engine: Engine, config: PrepareConfig, name: Path) -> Source:
    """A table of Spark's catalogs, whose rows have no order."""
    tables = engine.tables
    assert isinstance(tables, SparkTables), "the flags were checked"
    spelled = config.source.partition(":")[2]
    names, opened = tables.read_table(spelled)
    table = FileTable(Path(spelled), names, opened)
    columns = _columns_of(config, table)
    require(
        "time" in columns or "order" in columns,
        f"table {spelled} has no order of rows, wanted --time_column or --order_column",
    )
    chosen = {}
    for one, column in columns.items():
        _require_column(table, column, f"--{one}_column")
        require_readable(spelled, column, table[column].type(), one in _COMPARED)
        chosen[one] = table[column]
    events = tables.with_rows(table.table.select(**chosen), "row")
    return Source(Path(spelled), columns, events, spelled=False, has_order=False)


def _from_recbole(engine: Engine, config: PrepareConfig, path: Path) -> Source:
    table = atomic(engine, path)
    columns = _columns_of(config, table)
    if config.rating_column is None and "rating" in table.columns:
        columns["rating"] = "rating"
    source = _events(path, table, columns, spelled=True)
    beside = path.with_suffix(".item")
    if not beside.is_file():
        return source
    items = _atomic_items(engine, config, beside)
    return replace(source, items=items)


def _from_events(
    engine: Engine, config: PrepareConfig, path: Path, report: Callable[[str], None]
) -> Source:
    """The histories of the dataset --catalog, and the events after them."""
    require(
        config.catalog is not None,
        f"--source {config.source} needs --catalog DIR, the --data_dir of the dataset "
        "that its events continue",
    )
    assert config.catalog is not None
    events = joined_events(engine, path, open_dataset(config.catalog), report)
    columns = {name: name for name in ("user", "item", "time")}
    return Source(path, columns, events, spelled=False, keeps_ties=True)


_FILES: Mapping[str, Callable[[Engine, PrepareConfig, Path], Source]] = {
    "csv": _from_csv,
    "parquet": _from_parquet,
    "recbole": _from_recbole,
    "table": _from_table,
}


def _meant(source: str) -> str:
    """What --source may be, for messages; for a path, with its kind."""
    path = Path(source)
    if path.exists():
        ends = {".inter": "recbole", ".parquet": "parquet", ".sqlite": "events"}
        kind = "parquet" if path.is_dir() else ends.get(path.suffix, "csv")
        return f"{kind}:{source}"
    files = [f"{kind}:PATH" for kind in (*_FILES, "events")]
    return ", ".join([*_MOVIELENS, *files[:-1]]) + f" or {files[-1]}"


def _ml_100k(engine: Engine, config: PrepareConfig, archive: Path) -> Source:
    choices = [("ml-100k.inter", "ml-100k.item"), ("u.data", "u.item")]
    events, items = unpack(archive, choices, engine.folder)
    if events.suffix == ".inter":
        return _from_recbole(engine, PrepareConfig(text=config.text), events)
    flags = ["unknown", *_GENRES]
    names = ["item_id", "title", "released", "video", "link", *flags]
    films = delimited(engine, items, "|", names, quote="", encoding="latin-1").named()
    genres = _joined([ibis.ifelse(films[g] == "1", ", " + g, "") for g in _GENRES])
    texts = _with_texts(films.mutate(genres=genres.substr(2)), config, items)
    return _rated(delimited(engine, events, "\t", _RATED, quote=""), events, texts)


def _ml_1m(engine: Engine, config: PrepareConfig, archive: Path) -> Source:
    events, items = unpack(archive, [("ratings.dat", "movies.dat")], engine.folder)
    names = ["item_id", "title", "genres"]
    films = delimited(engine, items, "::", names, quote="", encoding="latin-1").named()
    table = delimited(engine, events, "::", _RATED, quote="")
    return _rated(table, events, _with_texts(_listed(films), config, items))


def _ml_20m(engine: Engine, config: PrepareConfig, archive: Path) -> Source:
    events, items = unpack(archive, [("ratings.csv", "movies.csv")], engine.folder)
    names = ["item_id", "title", "genres"]
    films = delimited(engine, items, ",", names, header=True).named()
    table = delimited(engine, events, ",", _RATED, header=True)
    return _rated(table, events, _with_texts(_listed(films), config, items))


_MOVIELENS: Mapping[str, Callable[[Engine, PrepareConfig, Path], Source]] = {
    "ml-100k": _ml_100k,
    "ml-1m": _ml_1m,
    "ml-20m": _ml_20m,
}


def _listed(films: ir.Table) -> ir.Table:
    genres = films["genres"].nullif("(no genres listed)").replace("|", ", ")
    return films.mutate(genres=genres)


def _with_texts(films: ir.Table, config: PrepareConfig, file: Path) -> ItemRows:
    """Texts of films; the year at the end of a title is a column of its own."""
    texts = replace(_FILM, template=config.text or _FILM.template)
    title = cell_of(file, "title", films["title"])
    columns = {name: films[name] for name in films.columns} | with_year(title)
    return item_rows(file, films, "item_id", films["item_id"], title, texts, columns)


def _joined(parts: Sequence[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _rated(table: FileTable, file: Path, films: ItemRows) -> Source:
    columns = {
        "user": "user_id",
        "item": "item_id",
        "time": "timestamp",
        "rating": "rating",
    }
    events = _events(file, table, columns, spelled=True)
    return replace(events, items=films)


def _named_columns(config: PrepareConfig) -> dict[str, str]:
    columns = {
        "user": config.user_column,
        "item": config.item_column,
        "time": config.time_column,
        "order": config.order_column,
        "rating": config.rating_column,
    }
    return {name: column for name, column in columns.items() if column is not None}


def _columns_of(config: PrepareConfig, table: FileTable) -> dict[str, str]:
    """The columns that flags name; with --order_column the default time is optional."""
    columns = _named_columns(config)
    default = columns.get("time") == PrepareConfig.time_column
    if config.order_column is not None and default and columns["time"] not in table:
        del columns["time"]
    return columns


def _events(
    file: Path, table: FileTable, columns: Mapping[str, str], spelled: bool
) -> Source:
    for name, column in columns.items():
        _require_column(table, column, f"--{name}_column")
    chosen = {name: table[column] for name, column in columns.items()}
    return Source(file, columns, table.table.select(**chosen, row=table.row), spelled)


def _require_column(table: FileTable, column: str, flag: str) -> None:
    hint = ""
    if "time" in flag:
        hint = ", or 'None' if there are no times and the rows are in order"
    require(
        column in table,
        f"{table.file} has no column {column!r}: it has {table.listed()}; name the "
        f"right one with {flag}{hint}",
    )


def _titles(engine: Engine, config: PrepareConfig) -> ItemRows:
    path = config.items
    assert path is not None
    table = table_of_file(engine, path, [config.item_column, config.title_column])
    require_column(table, config.item_column)
    _require_column(table, config.title_column, "--title_column")
    template = config.text or field_of(config.title_column)
    texts = TextsInfo(template, config.title_column, null_values=config.null_values)
    cells = Cells(table, config.null_values)
    title = cell_of(path, config.title_column, cells[config.title_column])
    return item_rows(
        path, table.table, config.item_column, table[config.item_column], title, texts,
        cells,
    )  # fmt: skip


def _atomic_items(engine: Engine, config: PrepareConfig, path: Path) -> ItemRows | None:
    """The title (year) and class of each line of a RecBole `.item` file.

    A template may name them title, year and genres, or use the file's names.
    """
    table = atomic(engine, path)
    names = [name for name in table.columns if name.endswith(("title", "name"))]
    if config.item_column not in table.columns or not names:
        return None
    title, template = "{title}", "{title}"
    cells = Cells(table, config.null_values)
    named = {"title": cells[names[0]]}
    if "release_year" in table.columns:
        named["year"] = cells["release_year"]
        title = template = "{title} ({year})"
    if "class" in table.columns:
        named["genres"] = cells["class"].replace(" ", ", ")
        template = template + ", {genres}"
    texts = TextsInfo(
        config.text or template,
        year_in_title="year" in named,
        null_values=config.null_values,
    )
    shown = text_of(title, path, named)
    return item_rows(
        path, table.table, config.item_column, table[config.item_column], shown, texts,
        ChainMap(named, cells),  # type: ignore[arg-type]
    )  # fmt: skip
