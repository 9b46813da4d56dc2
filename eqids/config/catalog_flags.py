"""What the commands of `python -m eqids.catalog` are told."""

from dataclasses import dataclass, field
from pathlib import Path

from eqids.config.errors import TEXT_WANTED, require


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Show a catalog: its versions, sizes and free places."""

    data_dir: Path
    """The dataset folder."""


@dataclass(frozen=True, kw_only=True)
class ChangeConfig:
    """What every command that changes a catalog is told."""

    data_dir: Path
    """The dataset folder; it is replaced as a whole, or not at all."""
    checkpoint: Path | None = None
    """A checkpoint DIR/STEP, or a run's DIR, which means its best step: it is
    brought to the new version too, with metrics before and after."""
    output: Path | None = None
    """The folder of the run that the new checkpoint begins, by default beside the
    old one: DIR-v2 for version 2."""
    llama_path: Path | None = None
    """Where the frozen Llama is, if it is no longer where the run found it."""
    tokenizer: Path | None = None
    """Where the tokenizer.json of a run with words is, if it is no longer where the
    run found it."""
    dry_run: bool = False
    """Say what would happen, and write nothing."""

    def __post_init__(self) -> None:
        require(
            self.output is None or self.checkpoint is not None,
            "--output needs --checkpoint, the one to bring to the new version",
        )


@dataclass(frozen=True, kw_only=True)
class AddConfig(ChangeConfig):
    """Add items, each in a free place of the cluster nearest to its vector."""

    items: Path
    """CSV or Parquet file of the new items, a row each; retired ones that are in it
    become valid again."""
    item_column: str = "item_id"
    """Column of item ids in --items."""
    title_column: str | None = None
    """Column of titles in --items; by default the one that the dataset was prepared
    with, or else 'title', if there is one."""
    text: str | None = None
    """What a model may read of an item: a text with columns of --items in braces, such
    as '{title} ({year}), {genres}'; by default what the dataset was prepared with, or,
    where that is not known, the column 'text' or the title."""
    text_column: str | None = None
    """Instead of --text: the one column that holds what a model may read."""
    similar_column: str | None = None
    """Column of items of the catalog that each resembles, ids separated by commas or
    spaces, or a list; by default 'similar', if there is one. The item starts as their
    mean."""
    vectors: Path | None = None
    """A .npy file of item vectors, float32 [item, vector_width], in the order of
    --items; by default the mean of those of the similar items."""
    skip_known: bool = False
    """Leave out items that are in the catalog already, instead of refusing them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.text is None or self.text_column is None,
            "--text and --text_column both say what a model may read: wanted one",
        )
        require(self.text != "", TEXT_WANTED)


@dataclass(frozen=True, kw_only=True)
class RetireConfig(ChangeConfig):
    """Retire items: from now on they appear in histories only."""

    ids: str | None = None
    """Item ids, separated by commas; put an id with a comma, or with spaces at an end,
    in double quotes."""
    items: Path | None = None
    """CSV or Parquet file of the items, a row each."""
    item_column: str = "item_id"
    """Column of item ids in --items."""
    skip_known: bool = False
    """Leave out items that are retired already, instead of refusing them."""
    skip_unknown: bool = False
    """Leave out items that are not in the catalog, instead of refusing them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.ids is None) != (self.items is None),
            "wanted one of --ids and --items, the items to retire",
        )
        require(
            self.ids is None or bool(self.ids.strip(", \t\r\n")),
            f"--ids is {self.ids!r}, wanted item ids, separated by commas",
        )


@dataclass(frozen=True, kw_only=True)
class GrowConfig(ChangeConfig):
    """Add empty clusters, which clusters that divide will fill."""

    clusters: int | None = None
    """How many; catalogs of a multiple of 64 clusters stay one."""
    free_share: float | None = None
    """As many as leave this share of all places free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.clusters is None) != (self.free_share is None),
            "wanted one of --clusters and --free_share, how many clusters to add",
        )
        require(
            self.free_share is None or 0 <= self.free_share < 1,
            f"--free_share is {self.free_share}, wanted at least 0 and less than 1",
        )


@dataclass(frozen=True, kw_only=True)
class RebalanceConfig(ChangeConfig):
    """Divide crowded clusters, and forget retired items that no history names."""

    free_share: float = 0.1
    """The share of places that each cluster is to have free."""


@dataclass(frozen=True, kw_only=True)
class MigrateConfig(ChangeConfig):
    """Bring a checkpoint of an earlier version to the present one."""

    checkpoint: Path = field()
    """A checkpoint DIR/STEP, or a run's DIR, which means its best step."""
