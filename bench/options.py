"""Flags that all sections of the bench share, and those of `all` and `compare`."""

from dataclasses import dataclass
from pathlib import Path

from eqids.cli import check_output
from eqids.config import (
    ABOVE_ZERO,
    ONE_OR_MORE,
    check_flags,
    grouped,
    on_unless,
    require,
)


@dataclass(frozen=True)
class Options:
    """The flags of every section of the bench."""

    quick: bool = grouped("measurement", False)
    """Measure small cases with few repetitions: a check of about a minute."""
    json: Path | None = grouped("measurement", None)
    """Write the machine, the versions, the results and every repetition to this JSON
    file."""
    plot: Path | None = grouped("measurement", None)
    """Draw the curve of the section into this PNG file (needs eqids[bench])."""
    cores: int = grouped("measurement", 1)
    """Pin the process to this many cores. With one, CPU time is measured, which other
    processes disturb less; with more, wall time."""
    repetitions: int = grouped("measurement", 7)
    """Timed runs of each contender, after one to warm up."""
    huge_pages: bool = on_unless(
        "Allocate in ordinary pages, for all contenders, instead of huge ones "
        "(GLIBC_TUNABLES=glibc.malloc.hugetlb=1, on Linux).",
        "measurement",
    )
    """Allocate in huge pages, for all contenders, as any program on Linux does with
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1."""
    budget: float = grouped("measurement", 30.0)
    """Seconds for all repetitions of one contender. Slow peers are run less often; a
    peer whose warm-up takes longer is run only that once."""
    seed: int = grouped("measurement", 0)
    """Seed of everything random."""

    @property
    def most_repetitions(self) -> int:
        """Timed runs of each contender."""
        return min(self.repetitions, 3) if self.quick else self.repetitions

    @property
    def most_seconds(self) -> float:
        """Wall time for all repetitions of one contender."""
        return min(self.budget, 1.0) if self.quick else self.budget

    def __post_init__(self) -> None:
        check_flags(self, "cores repetitions", ONE_OR_MORE)
        check_flags(self, "budget", ABOVE_ZERO)
        check_output(self.json, "--json")
        check_output(self.plot, "--plot")


@dataclass(frozen=True)
class AllOptions:
    """Measure every section in turn, each with its own defaults."""

    quick: bool = False
    """Measure small cases: a check of the bench, within five minutes."""
    json: Path | None = None
    """Write all results to this JSON file, with one key for each section."""
    data_dir: Path | None = None
    """Dataset folder of the sections that need one; by default ML-100K, downloaded if
    it is missing."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        check_output(self.json, "--json")


@dataclass(frozen=True)
class CompareOptions:
    """Compare two results of the bench, row by row.

    Ends with exit code 1 if one of our times grew by more than noise.
    """

    before: Path
    """What --json wrote for the one build."""
    after: Path
    """What --json wrote for the other."""


def require_folder(flag: str, folder: Path | None) -> None:
    """Requires that the folder of a flag exists, if one is given."""
    require(
        folder is None or folder.is_dir(), f"{flag} {folder}: there is no such folder"
    )
