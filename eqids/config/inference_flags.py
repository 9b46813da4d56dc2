"""What the doors besides training are told; fields are flags, their texts the help."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from eqids.config.distributed import ProcessesConfig
from eqids.config.errors import TEXT_WANTED, require

TimeUnit = Literal[
    "days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"
]
"""Unit of times that are numbers."""

_CLUSTERING = ("clusters", "cluster_vectors", "vector_width", "spherical",
               "num_clusters", "free_share")  # fmt: skip
"""Flags of `prepare` that say how items are clustered."""

_RESULTS = (".csv", ".csv.gz", ".csv.zst", ".parquet", ".pq")
"""Ends of the names of files that `recommend` writes."""


@dataclass(frozen=True)
class PrepareConfig:
    """What `python -m eqids.prepare` is told."""

    source: str = "ml-100k"
    """Where interactions come from: ml-100k, ml-1m, ml-20m (fetched; or
    ml-1m:PATH for a local zip or folder), csv:PATH, parquet:PATH, or
    recbole:PATH.inter."""
    data_dir: Path | None = None
    """The dataset folder to write, by default data/ and the source's name; it must
    not exist yet, or be replaced with --overwrite."""
    user_column: str = "user_id"
    """Column of user ids (csv and parquet sources)."""
    item_column: str = "item_id"
    """Column of item ids (csv and parquet sources)."""
    time_column: str | None = "timestamp"
    """Column of times: numbers since 1970 (see --time_unit), dates or timestamps;
    'None' if there are no times and rows already stand in order."""
    time_unit: TimeUnit | None = None
    """Unit of times that are numbers; by default seconds, unless all times would then
    be before 1971 or after 2100 and another unit fits."""
    order_column: str | None = None
    """Column that orders a user's events (numbers, dates or timestamps), for data
    without times, or whose times are too coarse to order events. Times are then
    optional."""
    rating_column: str | None = None
    """Column of ratings, needed by --min_rating only."""
    items: Path | None = None
    """CSV or Parquet file of item titles, with the column --item_column. Rows of items
    without events are left out and counted; two rows of one item must say the same."""
    title_column: str = "title"
    """Column of titles in --items."""
    text: str | None = None
    """Makes what a model may read of an item: a text with columns of the items in
    braces, such as '{title} ({year}), {genres}'; by default the title and, where the
    source has them, the genres, or with --catalog the text of that dataset. An empty
    field takes the brackets around it along and the text before it, from the last
    comma on."""
    missing: Literal["refuse", "drop"] = "refuse"
    """Rows without a user, item or time. refuse: an error that says how many there
    are. drop: leave them out, and count them."""
    null_values: tuple[str, ...] = ()
    r"""Texts that mean an empty cell, such as NULL or \N. Among numbers NULL, \N, nan,
    None, NA and the like always do."""
    min_rating: float | None = None
    """Drop interactions rated lower."""
    min_user_interactions: int = 1
    """Drop users with fewer interactions (repeated with the next until stable)."""
    min_item_interactions: int = 1
    """Drop items with fewer interactions."""
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    """leave_one_out: each user's last item is test, the one before validation.
    temporal: two global times, at 80% and 90% of the interactions."""
    clusters: Literal["kmeans", "popularity", "random"] = "kmeans"
    """What items of a cluster have in common: near vectors (balanced k-means),
    similar counts, or nothing (random, for comparison)."""
    cluster_vectors: str = "interactions"
    """Item vectors: from interactions (who used them in training), from words (their
    titles and texts), from text (what the Llama of --llama_path makes of their
    texts), or your own: PATH.parquet (a column of ids named as
    --item_column, a column of lists or columns of numbers) or PATH.npy (a row for each
    row of --items)."""
    llama_path: Path | None = None
    """Folder of a pretrained Llama with its tokenizer.json, for --cluster_vectors
    text."""
    vector_width: int = 64
    """Size of vectors from interactions, words or text (truncated SVD)."""
    spherical: bool = False
    """Compare vectors by direction, as text embeddings want it, whatever their
    length, which tells of popularity in those from interactions."""
    num_clusters: int | None = None
    """Number of clusters; by default the square root of the items up to 10,000 items,
    four times that from a hundred thousand on."""
    free_share: float = 0.05
    """Share of a cluster's places that stay free for items to come, rounded down to
    whole places."""
    catalog: Path | None = None
    """A dataset folder whose items keep their places, so that checkpoints of it go
    on; it says how items are clustered. Only places are taken from it: --source must
    hold all histories, old events and new ones, for what it lacks is lost to the new
    dataset, which is written to another --data_dir."""
    unknown_items: Literal["append", "refuse"] = "append"
    """What becomes of items that --catalog does not hold: a free place near the items
    that they were used next to, or an error."""
    seed: int = 0
    """Seeds vectors, clustering and, where needed, the breaking of ties."""
    overwrite: bool = False
    """Replace an existing dataset folder."""

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "min_item_interactions", "vector_width"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")
        require(0 <= self.seed < 2**32, f"--seed is {self.seed}, wanted 0 to 2**32 - 1")
        require(
            self.num_clusters is None or self.num_clusters >= 1,
            f"--num_clusters is {self.num_clusters}, wanted 1 or more",
        )
        require(
            0 <= self.free_share < 1,
            f"--free_share is {self.free_share}, wanted at least 0 and less than 1",
        )
        self._check_vectors()
        if self.catalog is not None:
            self._check_catalog(self.catalog)
        require(
            self.order_column is None
            or self.source.startswith(("csv:", "parquet:", "recbole:")),
            f"--order_column is {self.order_column!r}, and --source {self.source} has "
            "times; it is for csv, parquet and recbole sources",
        )
        require(
            self.min_rating is None or self.rating_column is not None
            or not self.source.startswith(("csv:", "parquet:")),
            "--min_rating needs --rating_column, the column that holds the ratings",
        )  # fmt: skip
        require(
            self.text is None or self.items is not None
            or not self.source.startswith(("csv:", "parquet:")),
            "--text needs --items, the file whose columns it names",
        )  # fmt: skip
        require(self.text != "", TEXT_WANTED)

    def _check_vectors(self) -> None:
        path = self.cluster_vectors
        require(
            path in ("interactions", "tokens", "text")
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
        if kind in ("csv", "parquet", "recbole"):
            file = Path(path)
            packed = file.suffix.lower() in (".gz", ".zst", ".bz2", ".xz")
            name = Path(file.stem).stem if packed else file.stem
        return self.data_dir or Path("data") / name


@dataclass(frozen=True, kw_only=True)
class OpenConfig:
    """Where a trained model is, and what it needs."""

    checkpoint: Path | None = None
    """A checkpoint DIR/STEP, or a run's DIR, which means its best step."""
    init_from: Path | None = None
    """Instead of --checkpoint: a folder that python -m convert eqids-to-hf wrote."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    llama_path: Path | None = None
    """Where the frozen Llama is, if it is no longer where the run found it."""
    tokenizer: Path | None = None
    """Where the tokenizer.json of a run with words is, if it is no longer where the
    run found it."""

    def __post_init__(self) -> None:
        require(
            (self.checkpoint is None) != (self.init_from is None),
            "wanted one of --checkpoint and --init_from, the model to open",
        )
        require(
            self.init_from is None or self.llama_path is None,
            f"--init_from {self.init_from} has a Llama of its own, wanted no "
            "--llama_path",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(OpenConfig):
    """What `python -m eqids.evaluate` is told."""

    split: Literal["valid", "test"] = "test"
    """Which targets to rank."""
    eval_users: int | None = None
    """Evaluate this many users only, the same ones each time; by default all."""
    json: Path | None = None
    """Write the result there as JSON."""
    processes: ProcessesConfig = ProcessesConfig()
    """How the processes of a run find one another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.eval_users is None or self.eval_users >= 1,
            f"--eval_users is {self.eval_users}, wanted 1 or more",
        )


@dataclass(frozen=True, kw_only=True)
class RecommendConfig(OpenConfig):
    """What `python -m eqids.recommend` is told."""

    user: str | None = None
    """A user of the dataset; all that is known of the user is the history."""
    history: str | None = None
    """Item ids, oldest first, separated by commas; one that holds a comma stands in
    double quotes. Without any ('') the most popular items are named."""
    input: Path | None = None
    """Parquet or CSV file of histories: columns user, item and, if known, time.
    Parquet if the file begins as Parquet does or its name ends in .parquet or .pq;
    otherwise CSV, plain or packed by gzip, zstd, bzip2 or xz."""
    output: Path | None = None
    """File to write recommendations to (with --input): CSV if the name ends in .csv,
    .csv.gz or .csv.zst, Parquet if it ends in .parquet or .pq; no other names. It must
    not exist yet, or be replaced with --overwrite."""
    overwrite: bool = False
    """Replace an existing --output."""
    unknown: Literal["refuse", "skip"] = "refuse"
    """Refuse histories with items that the catalog does not hold, or skip these items
    and count them."""
    k: int = 10
    """How many items."""
    keep_seen: bool = False
    """Recommend items of the history too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k >= 1, f"--k is {self.k}, wanted 1 or more")
        given = sum(x is not None for x in (self.user, self.history, self.input))
        require(
            given == 1,
            f"wanted one of --user, --history and --input, {given} are given",
        )
        require(
            (self.input is None) == (self.output is None),
            "--input and --output go together: a file to read and one to write",
        )
        require(
            self.output is None or self.output.name.lower().endswith(_RESULTS),
            f"--output {self.output} ends in none of {', '.join(_RESULTS)}, wanted one "
            "of them: it tells what is written",
        )
        require(
            not self.overwrite or self.output is not None,
            "--overwrite needs --output, the file to replace",
        )
