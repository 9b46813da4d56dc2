"""What the doors besides training are told; fields are flags, their texts the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config.errors import require


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
    """Column of times: numbers (seconds), or dates and timestamps; 'None' where
    rows already stand in order of time."""
    rating_column: str | None = None
    """Column of ratings, needed by --min_rating only."""
    items: Path | None = None
    """CSV or Parquet file of item titles, with the column --item_column."""
    title_column: str = "title"
    """Column of titles in --items."""
    min_rating: float | None = None
    """Drop interactions rated lower."""
    min_user_interactions: int = 1
    """Drop users with fewer interactions (repeated with the next until stable)."""
    min_item_interactions: int = 1
    """Drop items with fewer interactions."""
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    """leave_one_out: each user's last item is test, the one before validation.
    temporal: two global times, at 80% and 90% of the interactions."""
    clusters: Literal["interactions", "popularity", "random"] = "interactions"
    """What puts items into one cluster: being used by the same users (default),
    similar counts, or nothing (random, for comparison)."""
    num_clusters: int | None = None
    """Number of clusters; by default about the square root of the items."""
    vector_width: int = 64
    """Size of the item vectors (truncated SVD) that are clustered."""
    seed: int = 0
    """Seeds the SVD, the clustering and, where needed, the breaking of ties."""
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
            self.min_rating is None or self.rating_column is not None
            or not self.source.startswith(("csv:", "parquet:")),
            "--min_rating needs --rating_column, the column that holds the ratings",
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        """The dataset folder to write."""
        kind, _, path = self.source.partition(":")
        name = Path(path).stem if kind in ("csv", "parquet", "recbole") else kind
        return self.data_dir or Path("data") / name


@dataclass(frozen=True)
class EvaluateConfig:
    """What `python -m eqids.evaluate` is told."""

    checkpoint: Path
    """A checkpoint DIR/STEP, or a run's DIR, which means its best step."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    split: Literal["valid", "test"] = "test"
    """Which targets to rank."""
    json: Path | None = None
    """Write the result there as JSON."""
    llama_path: Path | None = None
    """Where the frozen Llama is, if it is no longer where the run found it."""


@dataclass(frozen=True)
class RecommendConfig:
    """What `python -m eqids.recommend` is told."""

    checkpoint: Path
    """A checkpoint DIR/STEP, or a run's DIR, which means its best step."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    user: str | None = None
    """A user of the dataset; all that is known of the user is the history."""
    history: str | None = None
    """Item ids, oldest first, separated by commas."""
    input: Path | None = None
    """Parquet file of histories: columns user, item and, if known, time."""
    output: Path | None = None
    """Parquet file to write recommendations to (with --input)."""
    k: int = 10
    """How many items."""
    keep_seen: bool = False
    """Recommend items of the history too."""
    llama_path: Path | None = None
    """Where the frozen Llama is, if it is no longer where the run found it."""

    def __post_init__(self) -> None:
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
