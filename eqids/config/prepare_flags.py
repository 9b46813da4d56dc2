"""The flags of `python -m eqids.prepare`: a field each, with its group and its help."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from eqids.config.bounds import ABOVE_ZERO, ONE_OR_MORE, SEED, SHARE, check_flags
from eqids.config.choices import TimeUnit
from eqids.config.errors import TEXT_WANTED, require
from eqids.config.flag_fields import grouped

_CLUSTERING = (
    "clusters", "cluster_file", "cluster_vectors", "vector_width", "spherical",
    "num_clusters", "free_share",
)  # fmt: skip
"""Flags that say how items are clustered."""


@dataclass(frozen=True)
class PrepareConfig:
    """The flags of `python -m eqids.prepare`."""

    source: str = grouped("source", "ml-100k")
    """Where interactions come from: ml-100k, ml-1m, ml-20m (downloaded; ml-1m:PATH for
    a local zip or folder), csv:PATH, parquet:PATH, recbole:PATH.inter, or events:PATH
    for the events that python -m eqids.serve --events PATH collected, after those of
    the dataset that it served. parquet:PATH may be a folder of files; table:NAME is a
    table of Spark (--engine spark)."""
    append: str | None = grouped("source", None)
    """New events that continue those of the dataset --catalog, in place of --source and
    written like it. The old source is not read again. The new dataset is what all
    events at once, with --source and --catalog, would make."""
    data_dir: Path | None = grouped("source", None)
    """The dataset folder to write, by default data/ and the source's name. It must not
    exist, unless --overwrite is given."""
    overwrite: bool = grouped("source", False)
    """Replace an existing dataset folder."""
    items: Path | None = grouped("source", None)
    """CSV or Parquet file of item titles, with the column --item_column. Rows of items
    without events are left out and counted; two rows of one item must agree."""
    user_column: str = grouped("columns", "user_id")
    """Column of user ids (csv and parquet sources)."""
    item_column: str = grouped("columns", "item_id")
    """Column of item ids (csv and parquet sources)."""
    time_column: str | None = grouped("columns", "timestamp")
    """Column of times: numbers since 1970 (see --time_unit), dates or timestamps.
    'None' if there are no times and the rows are in order."""
    time_unit: TimeUnit | None = grouped("columns", None)
    """Unit of times that are numbers. By default seconds, unless all times would then
    be before 1971 or after 2100 and another unit fits."""
    time_format: str | None = grouped("columns", None)
    """Form of times that are text, such as %d.%m.%Y or '%m/%d/%Y %H:%M'. By default
    2024-05-01 12:30:00 and its like (duckdb only)."""
    order_column: str | None = grouped("columns", None)
    """Column that orders a user's events (numbers, dates or timestamps), for data
    whose times are missing or too coarse to order events. Times are then optional."""
    rating_column: str | None = grouped("columns", None)
    """Column of ratings; only --min_rating needs it."""
    title_column: str = grouped("columns", "title")
    """Column of titles in --items."""
    text: str | None = grouped("columns", None)
    """Template of the text that a model may read of an item, with columns of the items
    in braces, such as '{title} ({year}), {genres}'. By default the title and, if the
    source has them, the genres; with --catalog the template of that dataset. Around an
    empty field its brackets are dropped too, and the text before it from the last comma
    on."""
    missing: Literal["refuse", "drop"] = grouped("columns", "refuse")
    """What to do with rows without a user, item or time. refuse: end with an error that
    says how many there are. drop: leave them out, and count them."""
    null_values: tuple[str, ...] = grouped("columns", ())
    r"""Texts that mean an empty cell, such as NULL or \N. Among numbers NULL, \N, nan,
    None, NA and the like always do."""
    min_rating: float | None = grouped("source", None)
    """Drop interactions with a lower rating."""
    min_user_interactions: int = grouped("source", 1)
    """Drop users with fewer interactions (repeated with the next until stable)."""
    min_item_interactions: int = grouped("source", 1)
    """Drop items with fewer interactions."""
    core: int | None = grouped("source", None)
    """Keep the K-core: drop users and items with fewer interactions than this, until
    none is left. Short for --min_user_interactions and --min_item_interactions."""
    split: Literal["leave_one_out", "temporal"] = grouped("source", "leave_one_out")
    """How events are split. leave_one_out: each user's last item is for the test, the
    one before it for validation. temporal: by two global times, at 80% and 90% of the
    interactions."""
    clusters: Literal["kmeans", "popularity", "random"] = grouped(
        "catalog and clusters", "kmeans"
    )
    """What the items of a cluster have in common: near vectors (balanced k-means),
    similar counts, or nothing (random, for comparison)."""
    cluster_file: Path | None = grouped("catalog and clusters", None)
    """Clusters of your own: a CSV or Parquet file with the column --item_column and the
    column `cluster`, whole numbers from 0 on. The clusters may differ in size."""
    cluster_vectors: str = grouped("catalog and clusters", "interactions")
    """Item vectors to cluster by: from interactions (which users used the item in
    training), from words (of its title and text), from text (Llama's encoding, by the
    Llama of --llama_path), or your own: PATH.parquet (a column of ids named as
    --item_column, and a column of lists or columns of numbers) or PATH.npy (a row for
    each row of --items)."""
    llama_path: Path | None = grouped("catalog and clusters", None)
    """Folder of a pretrained Llama with its tokenizer.json, for --cluster_vectors
    text."""
    num_clusters: int | None = grouped("catalog and clusters", None)
    """Number of clusters; by default 1 up to 20,000 items, where a softmax over all
    items predicts better and costs little, twice the square root of the number of items
    above, and four times that from a hundred thousand on."""
    free_share: float = grouped("catalog and clusters", 0.05)
    """Share of a cluster's places that stay free for new items, rounded down to whole
    places."""
    catalog: Path | None = grouped("catalog and clusters", None)
    """A dataset folder whose items keep their places, so that its checkpoints fit the
    new dataset; its clusters are kept too. Nothing else is taken from it: --source must
    hold all histories, old events and new ones. The new dataset goes to another
    --data_dir. With --source events:PATH the histories of this dataset come first; by
    default it is the one that was served."""
    unknown_items: Literal["append", "refuse"] = grouped(
        "catalog and clusters", "append"
    )
    """What to do with items that --catalog does not hold. append: give each a free
    place near the items that it was used next to. refuse: end with an error."""
    engine: Literal["duckdb", "spark"] = grouped("engine", "duckdb")
    """What reads, filters and sorts the events. duckdb: this machine, on its disk where
    its memory is too small. spark: a cluster of Apache Spark (pip install
    'eqids[spark]', Java 17). Both write the same dataset, to the byte."""
    memory_gb: float = grouped("engine", 2.0)
    """Most memory of DuckDB, in GB. What exceeds it goes to a temporary folder
    (TMPDIR), which takes longer."""
    spark_master: str | None = grouped("engine", None)
    """Spark's cluster, such as spark://HOST:7077, yarn, k8s://URL or local[8]. By
    default what spark-submit or SPARK_HOME says, otherwise this machine, local[*]."""
    spark_conf: tuple[str, ...] = grouped("engine", ())
    """Settings of Spark, each KEY=VALUE, such as spark.executor.memory=16g."""
    spark_dir: Path | None = grouped("engine", None)
    """Folder for Spark's intermediate tables, which this machine and all of Spark's
    workers reach by the same path. By default a temporary folder, if Spark is local.
    Everything in it that this command makes is removed."""
    vector_width: int = grouped("expert", 64)
    """Size of vectors from interactions, words or text (truncated SVD)."""
    spherical: bool = grouped("expert", False)
    """Compare vectors by direction, not by length. This suits embeddings of text; the
    length of vectors from interactions says how popular an item is."""
    seed: int = grouped("expert", 0)
    """Seed of vectors, of clustering and, if needed, of the order of ties."""

    def __post_init__(self) -> None:
        names = "min_user_interactions min_item_interactions vector_width num_clusters"
        check_flags(self, f"{names} core", ONE_OR_MORE)
        self._check_core()
        self._check_append()
        self._check_spark()
        self._check_time_format()
        check_flags(self, "memory_gb", ABOVE_ZERO)
        check_flags(self, "seed", SEED)
        check_flags(self, "free_share", SHARE)
        self._check_vectors()
        self._check_cluster_file()
        if self.catalog is not None:
            self._check_catalog(self.catalog)
        tables = ("csv:", "parquet:", "table:")
        require(
            self.order_column is None or self.source.startswith((*tables, "recbole:")),
            f"--order_column is {self.order_column!r}, and --source {self.source} has "
            "times; it is for csv, parquet and recbole sources",
        )
        require(
            self.min_rating is None or not self.source.startswith("events:"),
            f"--min_rating is {self.min_rating}, and events have no ratings: drop it",
        )
        require(
            self.min_rating is None
            or self.rating_column is not None
            or not self.source.startswith(tables),
            "--min_rating needs --rating_column, the column that holds the ratings",
        )
        require(
            self.text is None
            or self.items is not None
            or not self.source.startswith((*tables, "events:")),
            "--text needs --items, the file whose columns it names",
        )
        require(self.text != "", TEXT_WANTED)

    def _check_core(self) -> None:
        for name in ("min_user_interactions", "min_item_interactions"):
            least = getattr(self, name)
            require(
                self.core is None or least in (1, self.core),
                f"--core {self.core} and --{name} {least} contradict each other, "
                "wanted one of them",
            )
            if self.core is not None:
                object.__setattr__(self, name, self.core)

    def _check_append(self) -> None:
        if self.append is None:
            return
        require(
            self.catalog is not None,
            f"--append {self.append} needs --catalog DIR, the --data_dir of the "
            "dataset whose events it continues",
        )
        default = PrepareConfig.source
        require(
            self.source in (default, self.append),
            f"--source {self.source} and --append {self.append} contradict each other, "
            "wanted --append alone",
        )
        require(
            not self.append.startswith("events:"),
            f"--append {self.append}: wanted --source {self.append}, which appends too",
        )
        least = max(self.min_user_interactions, self.min_item_interactions)
        require(
            least == 1 and self.order_column is None,
            "--append knows no filters by numbers of interactions and no "
            "--order_column: prepare all events at once, with --source and --catalog",
        )
        object.__setattr__(self, "source", self.append)

    def _check_spark(self) -> None:
        for name in ("spark_master", "spark_conf", "spark_dir"):
            require(
                self.engine == "spark" or not getattr(self, name),
                f"--{name} is for --engine spark, and --engine is {self.engine}",
            )
        local = self.spark_master is None or self.spark_master.startswith("local")
        require(
            self.engine == "duckdb" or local or self.spark_dir is not None,
            f"--spark_master {self.spark_master} needs --spark_dir DIR, a folder that "
            "this machine and Spark's workers reach by the same path",
        )
        require(
            self.engine == "spark" or not self.source.startswith("table:"),
            f"--source {self.source} is a table of Spark, wanted --engine spark too",
        )

    def _check_time_format(self) -> None:
        form = self.time_format
        if form is None:
            return
        found = set(re.findall("%(.?)", form))
        day = "j" in found or ("d" in found and bool(found & set("mbB")))
        require(
            found <= set("dmyYbBjHIMSfp%") and bool(found & set("yY")) and day,
            f"--time_format is {form!r}, wanted a form with a year, a month and a day, "
            "such as '%d.%m.%Y' or '%m/%d/%y %I:%M %p'",
        )
        require(
            self.engine == "duckdb",
            f"--time_format {form} is for --engine duckdb; with spark, convert the "
            "column before, such as by to_timestamp",
        )

    def _check_vectors(self) -> None:
        path = self.cluster_vectors
        require(
            path in ("interactions", "words", "text")
            or path.endswith((".parquet", ".pq", ".npy")),
            f"--cluster_vectors is {path!r}, wanted interactions, words, text, "
            "PATH.parquet or PATH.npy",
        )
        require(
            (path == "text") == (self.llama_path is not None),
            "--cluster_vectors text and --llama_path DIR go together: the vectors, and "
            "the Llama that makes them",
        )
        require(
            not path.endswith(".npy") or self.items is not None,
            f"--cluster_vectors {path} needs --items, the file whose rows its rows "
            "belong to",
        )

    def _check_cluster_file(self) -> None:
        for name, default in (("clusters", "kmeans"), ("num_clusters", None)):
            require(
                self.cluster_file is None or getattr(self, name) == default,
                f"--{name} and --cluster_file {self.cluster_file} contradict each "
                "other, wanted one of them",
            )
        require(
            self.cluster_file is None or self.cluster_file.is_file(),
            f"--cluster_file {self.cluster_file} is not a file that exists",
        )

    def _check_catalog(self, catalog: Path) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in _CLUSTERING:
            require(
                getattr(self, name) == defaults[name],
                f"--{name} is for new catalogs, and items keep the clusters of "
                f"--catalog {catalog}; wanted one of the two",
            )
        require(
            catalog.resolve() != self.folder.resolve(),
            f"--data_dir {self.folder} is --catalog itself, whose histories would be "
            "lost: choose another --data_dir",
        )
        require(
            catalog.is_dir(),
            f"--catalog {catalog} is not a folder that exists, wanted the --data_dir "
            "of the dataset that the new one follows",
        )

    @property
    def folder(self) -> Path:
        """The dataset folder to write."""
        kind, _, path = self.source.partition(":")
        name = kind
        if kind in ("csv", "parquet", "recbole", "events"):
            file = Path(path)
            packed = file.suffix.lower() in (".gz", ".zst", ".bz2", ".xz")
            name = Path(file.stem).stem if packed else file.stem
        return self.data_dir or Path("data") / name
