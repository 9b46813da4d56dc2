"""The flags that open a model, and those of `python -m eqids.recommend`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config.bounds import ONE_OR_MORE, check_flags
from eqids.config.errors import require

_RESULTS = (".csv", ".csv.gz", ".csv.zst", ".parquet", ".pq")
"""Ends of the names of files that `recommend` writes."""


@dataclass(frozen=True, kw_only=True)
class OpenConfig:
    """Where a trained model is, and the files that it needs."""

    checkpoint: Path | None = None
    """The model: a checkpoint DIR/STEP, or a run's DIR, which means its best step."""
    init_from: Path | None = None
    """In place of --checkpoint, a folder that python -m convert eqids-to-hf wrote."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the run was trained on."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the run found it."""
    tokenizer: Path | None = None
    """The tokenizer.json of a run with text, if it is no longer where the run found
    it."""

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
class RecommendConfig(OpenConfig):
    """The flags of `python -m eqids.recommend`."""

    user: str | None = None
    """A user of the dataset, whose whole history there is used."""
    history: str | None = None
    """Item ids, oldest first, separated by commas; put an id with a comma in double
    quotes. An empty history ('') gets the most popular items."""
    input: Path | None = None
    """Parquet or CSV file of histories, or a folder of Parquet files, with columns
    user, item and, if known, time; request_time too for a model trained with
    --request_time.
    Parquet if the file begins as Parquet does or its name ends in .parquet or .pq;
    otherwise CSV, plain or packed by gzip, zstd, bzip2 or xz."""
    output: Path | None = None
    """File to write recommendations to (with --input): CSV if the name ends in .csv,
    .csv.gz or .csv.zst, Parquet if it ends in .parquet or .pq. It must not exist,
    unless --overwrite is given. A name without a dot is a folder of Parquet files, for
    inputs of any size; the same command continues it after a kill."""
    overwrite: bool = False
    """Replace an existing --output."""
    users_of_part: int | None = None
    """Most users of each file of a folder --output; by default as many as make 200,000
    recommendations."""
    unknown: Literal["refuse", "skip"] = "refuse"
    """What to do with histories that hold items which the catalog does not: refuse
    them, or skip these items and count them."""
    request_time: str | None = None
    """When the next items are requested, with a model trained with --request_time: unix
    seconds, a date and time such as 2024-05-01 12:00 (UTC), or last for the time of
    each history's last event. By default the column request_time of --input, or else
    now."""
    k: int = 10
    """Number of items to recommend."""
    keep_seen: bool = False
    """Recommend items of the history too."""
    allow: Path | None = None
    """File with the ids of the only items to recommend: one a line, or the column item
    of a CSV (its name ends in .csv) or Parquet file."""
    deny: Path | None = None
    """File with the ids of items not to recommend, as --allow."""
    score: str | None = None
    """Item ids, separated by commas: show how probable they are after the history of
    --user or --history, in place of recommendations."""
    similar: str | None = None
    """Item ids, separated by commas, in place of a history: show the --k items whose
    vectors are most similar to each."""
    layout: str = "none"
    """How the devices of this machine share the work: data (each has the whole model
    and some of the histories) or another named layout (python -m sharding list); none
    uses one device."""
    no_compilation_cache: bool = False
    """Compile all programs anew. Otherwise JAX keeps them in the folder programs of
    $EQIDS_CACHE or ~/.cache/eqids, or in $JAX_COMPILATION_CACHE_DIR."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "k users_of_part", ONE_OR_MORE)
        sources = self.user, self.history, self.input, self.similar
        given = sum(x is not None for x in sources)
        require(
            given == 1,
            "wanted one of --user, --history, --input and --similar, "
            f"{given} are given",
        )
        require(
            self.score is None or self.input is None and self.similar is None,
            "--score needs --user or --history, after which items are scored",
        )
        require(
            self.layout == "none" or self.score is None and self.similar is None,
            f"--layout {self.layout} is for recommendations, wanted no --score and no "
            "--similar beside it",
        )
        require(
            (self.input is None) == (self.output is None),
            "--input and --output go together: a file to read and one to write",
        )
        require(
            self.output is None
            or self.to_folder
            or self.output.name.lower().endswith(_RESULTS),
            f"--output {self.output} ends in none of {', '.join(_RESULTS)}, wanted one "
            "of them, which says which format to write, or a name without a dot for a "
            "folder",
        )
        require(
            self.users_of_part is None or self.to_folder,
            "--users_of_part is for a folder --output, a name without a dot",
        )
        require(
            not self.overwrite or self.output is not None,
            "--overwrite needs --output, the file to replace",
        )

    @property
    def to_folder(self) -> bool:
        """Whether --output is a folder of Parquet files."""
        return self.output is not None and "." not in self.output.name
