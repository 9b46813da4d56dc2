"""The flags of the commands of `python -m eqids.catalog`."""

from dataclasses import dataclass, field
from pathlib import Path

from eqids.config.bounds import SHARE, check_flags
from eqids.config.errors import TEXT_WANTED, require


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Show a catalog: its versions, sizes and free places."""

    data_dir: Path
    """The dataset folder."""


@dataclass(frozen=True, kw_only=True)
class ChangeConfig:
    """The flags of every command that changes a catalog."""

    data_dir: Path
    """The dataset folder. It is replaced as a whole, or left as it is."""
    checkpoint: Path | None = None
    """Migrate this checkpoint to the new version too, with metrics before and after:
    DIR/STEP, or a run's DIR, which means its best step."""
    output: Path | None = None
    """Folder of the run that starts with the migrated checkpoint; by default beside the
    old one, DIR-v2 for version 2."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""
    text_llama_path: Path | None = None
    """Folder of the Llama that encodes the texts of new items for their text columns,
    if it is no longer where the run found it."""
    tokenizer: Path | None = None
    """The tokenizer.json of a run with text, if it is no longer where the run found
    it."""
    dry_run: bool = False
    """Print what would change, and write nothing."""

    def __post_init__(self) -> None:
        require(
            self.output is None or self.checkpoint is not None,
            "--output needs --checkpoint, the checkpoint to migrate",
        )


@dataclass(frozen=True, kw_only=True)
class AddConfig(ChangeConfig):
    """Add items. Each goes to a free place of the cluster nearest to its vector."""

    items: Path
    """CSV or Parquet file of the new items, a row each. Retired items in it become
    valid again."""
    item_column: str = "item_id"
    """Column of item ids in --items."""
    title_column: str | None = None
    """Column of titles in --items; by default the one that the dataset was prepared
    with, or 'title' if the file has it."""
    text: str | None = None
    """Template of the text that a model may read of an item, with columns of --items in
    braces, such as '{title} ({year}), {genres}'. By default the template that the
    dataset was prepared with; if that is not recorded, the column 'text' or the
    title."""
    text_column: str | None = None
    """In place of --text, the column that holds the text that a model may read."""
    similar_column: str | None = None
    """Column of similar items in the catalog: ids separated by commas or spaces, or a
    list. A new item starts as their mean. By default 'similar', if the file has it."""
    vectors: Path | None = None
    """A .npy file of item vectors, float32 [item, vector_width], in the order of
    --items; by default the mean of the similar items' vectors."""
    skip_known: bool = False
    """Leave out items that the catalog holds already, instead of refusing them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.text is None or self.text_column is None,
            "--text and --text_column both say what a model may read, wanted one",
        )
        require(self.text != "", TEXT_WANTED)


@dataclass(frozen=True, kw_only=True)
class RetireConfig(ChangeConfig):
    """Retire items. They stay in histories, and are no longer recommended."""

    ids: str | None = None
    """Item ids to retire, separated by commas. Put an id with a comma, or with spaces
    at an end, in double quotes."""
    items: Path | None = None
    """CSV or Parquet file of the items to retire, a row each."""
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
    """Add empty clusters, which fill up when crowded clusters are divided."""

    clusters: int | None = None
    """Number of clusters to add. The number of a catalog that has a multiple of 64 is
    rounded up to one again."""
    free_share: float | None = None
    """Add as many clusters as leave this share of all places free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.clusters is None) != (self.free_share is None),
            "wanted one of --clusters and --free_share, how many clusters to add",
        )
        check_flags(self, "free_share", SHARE)


@dataclass(frozen=True, kw_only=True)
class RebalanceConfig(ChangeConfig):
    """Divide crowded clusters, and remove retired items that no history names."""

    free_share: float = 0.1
    """Share of places that each cluster is to have free."""


@dataclass(frozen=True, kw_only=True)
class MigrateConfig(ChangeConfig):
    """Migrate a checkpoint of an older version of the catalog to the present one."""

    checkpoint: Path = field()
    """The checkpoint to migrate: DIR/STEP, or a run's DIR, which means its best
    step."""
