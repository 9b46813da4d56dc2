"""Flags of `python -m bench.cold`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.config import ONE_OR_MORE, OPEN_SHARE, check_flags, require

ColdStart = Literal["random", "copy", "text", "features"]


@dataclass(frozen=True)
class ColdOptions:
    """The flags of `python -m bench.cold`."""

    folder: Path
    """Folder for the dataset without the withheld events, and for the runs."""
    llama_path: Path | None = None
    """Folder of a pretrained Llama that reads histories and texts."""
    text_llama_path: Path | None = None
    """In place of --llama_path: a Llama that encodes texts for a small model that is
    trained from scratch."""
    data_dir: Path = Path("data/ml-100k")
    """Dataset folder whose items have texts."""
    share: float = 0.1
    """Share of the items to withhold."""
    starts: tuple[ColdStart, ...] = ("random", "text", "features")
    """How items are placed: by random vectors; by a copy of the used item with the
    nearest text, after training (copy) or before (text: --init_items text, with
    --llama_path); or by text columns (features: --text_features). Each is a run, but
    for copy, which needs that of random before it."""
    num_users: int = 200
    """Number of users to evaluate, the same in all runs."""
    train: str = ""
    """More flags of `python -m eqids.train`."""
    seed: int = 0
    """Seed of the withheld items and the evaluated users."""
    json: Path | None = None
    """Write the result to this JSON file."""

    def __post_init__(self) -> None:
        require(
            (self.llama_path is None) != (self.text_llama_path is None),
            "wanted one of --llama_path and --text_llama_path",
        )
        starts = list(self.starts)
        require(
            "copy" not in starts or "random" in starts[: starts.index("copy")],
            "--starts copy uses the run of random, wanted random before it",
        )
        require(
            self.llama_path is not None or "text" not in starts,
            "--starts text needs --llama_path; wanted copy with --text_llama_path",
        )
        check_flags(self, "share", OPEN_SHARE)
        check_flags(self, "num_users", ONE_OR_MORE)
