"""The flags of `python -m eqids.evaluate` and `python -m eqids.report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from eqids.config.bounds import ONE_OR_MORE, ZERO_OR_MORE, check_flags
from eqids.config.distributed import ProcessesConfig
from eqids.config.errors import require
from eqids.config.inference_flags import OpenConfig

Metric = Literal[
    "hit_rate",
    "precision",
    "map",
    "coverage",
    "gini",
    "novelty",
    "popularity",
    "diversity",
    "serendipity",
    "calibration",
    "all",
]
"""A metric of recommended lists."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(OpenConfig):
    """The flags of `python -m eqids.evaluate`."""

    split: Literal["valid", "test", "temporal"] = "test"
    """The split whose targets are ranked. temporal: from each of --cut_times on, every
    user's first event, by the events before; of a dataset prepared with
    --split temporal."""
    cut_times: tuple[str, ...] = ()
    """With --split temporal, the times to evaluate at: unix seconds, or dates such as
    2024-05-01 (UTC). By default three: the dataset's own test time, and those that
    divide the later events into equally many."""
    cold_history: int | None = None
    """Show users with fewer events before their target apart, as cold, and the others
    as warm. By default 5 with --split temporal; otherwise users are not divided."""
    metrics: tuple[Metric, ...] = ()
    """More metrics, of the lists that are recommended: hit_rate, precision, map,
    coverage (of the catalog), gini (inequality of exposure), novelty, popularity,
    diversity (within lists), serendipity, calibration (of the probabilities); or all
    (docs/evaluation.md has the definitions)."""
    candidates: Path | None = None
    """In place of the full catalog, rank only these items for each user: a Parquet or
    CSV file with the columns user and item. The result says so, and is not comparable
    with others."""
    eval_users: int | None = None
    """Evaluate only this many users, always the same ones; by default all."""
    json: Path | None = None
    """Write the result to this file as JSON."""
    per_user: Path | None = None
    """Write the ranks of every user's target to this Parquet file, the baselines'
    beside."""
    recommendations: Path | None = None
    """In place of a model, evaluate the lists of another system, by the same protocol:
    a Parquet or CSV file with the columns user, item and, if its rows are not in the
    order of the lists, rank. It needs --data_dir."""
    processes: ProcessesConfig = ProcessesConfig()
    """How the processes of a run find one another."""

    def __post_init__(self) -> None:
        check_flags(self, "eval_users cold_history", ONE_OR_MORE)
        self._check_cuts()
        self._check_candidates()
        if self.recommendations is None:
            super().__post_init__()
            return
        require(
            self.checkpoint is None and self.init_from is None,
            f"--recommendations {self.recommendations} is evaluated without a model, "
            "wanted neither --checkpoint nor --init_from",
        )
        require(
            self.data_dir is not None,
            f"--recommendations {self.recommendations} needs --data_dir, the dataset "
            "with the targets",
        )

    def _check_cuts(self) -> None:
        require(
            not self.cut_times or self.split == "temporal",
            f"--cut_times {' '.join(self.cut_times)} is for --split temporal, and "
            f"--split is {self.split}",
        )
        for flag in ("per_user", "recommendations"):
            value = getattr(self, flag)
            require(
                value is None or self.split != "temporal" or len(self.cut_times) == 1,
                f"--{flag} {value} belongs to one time, wanted one of --cut_times with "
                "--split temporal",
            )

    def _check_candidates(self) -> None:
        for flag in ("recommendations", "metrics"):
            require(
                self.candidates is None or not getattr(self, flag),
                f"--candidates {self.candidates} ranks given items, wanted no --{flag} "
                "beside it, which is about recommended lists",
            )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of --metrics, each once; all of them for `all`."""
        if "all" in self.metrics:
            return tuple(one for one in get_args(Metric) if one != "all")
        return tuple(dict.fromkeys(self.metrics))


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The flags of `python -m eqids.report`."""

    run: tuple[Path, ...]
    """The runs: checkpoints DIR/STEP, or runs' DIRs, which mean their best steps.
    Several are shown beside each other; they must have one protocol and dataset."""
    output: Path = Path("report.html")
    """The HTML file to write; an existing one is replaced."""
    data_dir: Path | None = None
    """The dataset folder; by default the one that the runs were trained on."""
    llama_path: Path | None = None
    """Folder of the frozen Llama, if it is no longer where the runs found it."""
    tokenizer: Path | None = None
    """The tokenizer.json of runs with text, if it is no longer where they found it."""
    split: Literal["valid", "test"] = "test"
    """The split whose targets are ranked."""
    eval_users: int | None = None
    """Evaluate only this many users, always the same ones; by default all."""
    user_columns: Path | None = None
    """Divide users by columns of yours too: a Parquet or CSV file with the column user
    (or with users in its first one), and others such as country or plan, whose values
    are the groups."""
    examples: int = 20
    """Number of users to show with their history and recommendations; 0 for none."""
    seed: int = 0
    """Seed of the draws: the bootstrap's, and which users are shown."""

    def __post_init__(self) -> None:
        check_flags(self, "eval_users", ONE_OR_MORE)
        check_flags(self, "examples seed", ZERO_OR_MORE)
