"""Flags of `python -m bench quality`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eqids.cli import check_output
from eqids.config import ABOVE_ZERO, ONE_OR_MORE, SEED, check_flags, grouped, require
from eqids.io.cores import num_cores

SplitName = Literal["valid", "test"]


@dataclass(frozen=True)
class QualityOptions:
    """Train settings over seeds on several data sets, and compare their accuracy.

    Every run is an ordinary `python -m eqids.train` in a process of its own. The table
    has the baselines, the paired differences and published figures beside the means.
    The same command continues: finished runs are not run again. Choose on the
    validation split (--splits valid, which leaves the test split unread); read the test
    split once, for final settings (--splits valid test).

        python -m bench quality --seeds 0 --setting 'wide=--item_width 128'
        python -m bench quality --data beauty ml-1m --beauty raw/beauty \\
            --ml_1m raw/ml-1m --splits valid test --output docs/tables.md
    """

    data: tuple[str, ...] = grouped("source", ())
    """Data sets: ml-100k (downloaded), beauty, ml-1m, or names of --prepared. By
    default those of --prepared, or else ml-100k."""
    beauty: Path | None = grouped("source", None)
    """Folder of Amazon Beauty: interactions.parquet (user, item, order) and
    items.parquet (item, title, brand, categories)."""
    ml_1m: Path | None = grouped("source", None)
    """Folder of MovieLens-1M: interactions.csv (user, item, order, timestamp) and
    items.csv (item, title, year, genres)."""
    prepared: tuple[str, ...] = grouped("source", ())
    """More data sets: NAME=DIR, each a dataset folder that eqids.prepare wrote."""
    settings: tuple[str, ...] = grouped("model", ())
    """Settings by name: default, text, request-time, no-counts, frozen, lora, all. By
    default those of --setting, or else default."""
    setting: tuple[str, ...] = grouped("model", ())
    """More settings: 'NAME=FLAGS', with flags of eqids.train."""
    llama_path: Path | None = grouped("model", None)
    """Folder of the pretrained Llama of the settings frozen, lora and all."""
    text_llama_path: Path | None = grouped("model", None)
    """Folder of the pretrained Llama that encodes texts, for the setting text; by
    default --llama_path."""
    seeds: tuple[int, ...] = grouped("optimisation", (0, 1, 2))
    """Seeds of the runs of each setting."""
    minutes: float | None = grouped("optimisation", None)
    """Start no new run after this many minutes. A run that has started goes on to its
    end."""
    any_code: bool = grouped("optimisation", False)
    """Also accept finished runs of other versions of the code; the table says so."""
    splits: tuple[SplitName, ...] = grouped("measurement", ("valid",))
    """Splits to rank: valid to choose settings, test for final ones."""
    eval_users: int | None = grouped("measurement", None)
    """Rank only this many users, always the same ones; by default all."""
    against: str | None = grouped("measurement", None)
    """A setting that the others are compared with too, user by user."""
    folder: Path = grouped("measurement", Path("runs/quality"))
    """Folder of the datasets, of the runs and of the ranks of every user."""
    json: Path | None = grouped("measurement", None)
    """Write everything to this JSON file: results of every seed, differences, flags,
    times, machine and versions."""
    output: Path | None = grouped("measurement", None)
    """Write the tables to this Markdown file. In an existing file they replace what is
    between two marker lines, which a new file shows."""
    plot: Path | None = grouped("measurement", None)
    """Draw NDCG@10 into this PNG file (needs eqids[bench])."""
    cores: int = grouped("measurement", factory=num_cores)
    """Pin the runs to this many cores; by default all."""

    def __post_init__(self) -> None:
        check_flags(self, "cores eval_users", ONE_OR_MORE)
        check_flags(self, "minutes", ABOVE_ZERO)
        check_flags(self, "seeds", SEED)
        require(len(self.splits) > 0, "--splits is empty, wanted valid, test or both")
        for name in ("data", "settings", "seeds", "splits"):
            values = getattr(self, name)
            require(
                len(values) == len(set(values)),
                f"--{name} is {' '.join(map(str, values))}, wanted each once",
            )
        for path, flag in ((self.json, "--json"), (self.plot, "--plot"),
                           (self.output, "--output")):  # fmt: skip
            check_output(path, flag)
