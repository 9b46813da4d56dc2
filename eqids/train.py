"""Train: `python -m eqids.train`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from eqids.cli import (
    config_of,
    loading,
    make_callable,
    parse,
    reported,
    run_as_process,
    say,
)
from eqids.config import (
    ML_100K,
    NANO_RECIPE,
    Strategy,
    TrainConfig,
    recipe_for,
    require,
)

if TYPE_CHECKING:
    from eqids.data import Dataset
    from eqids.runs.best_result import TrainedRun

DESCRIPTION = """Train a recommender: item vectors and texts through a Llama.

Without flags: fetch MovieLens-100K, train the nano model from scratch (about two
minutes on two CPU cores), evaluate it beside the baselines and leave a checkpoint.
The same command resumes a stopped run.

    python -m eqids.train
    python -m eqids.train --data_dir data/mine --seed 1 --checkpoint_dir runs/mine

Two stages with a pretrained Llama, frozen first, then trained as a whole:

    python -m eqids.train --llama_path Llama-3.2-1B --freeze_llama \\
        --data_dir data/mine --checkpoint_dir runs/stage1 --num_steps 1000
    python -m eqids.train --train all --load_checkpoint runs/stage1/1000 \\
        --checkpoint_dir runs/stage2 --num_steps 500 --learning_rate 1e-5

Dataset, Llama, prompt, texts, sizes and dtype are those of the first stage. The
command prints what it takes over; a flag on the command line overrides it.

Texts beside the items, read by a pretrained Llama (python -m eqids.prepare --text):

    python -m eqids.train --llama_path Llama-3.2-1B --freeze_llama \\
        --data_dir data/mine --text_tokens_per_item 16 --seq_len 256 \\
        --prompt "Films that someone watched, oldest first:"

A second stage that changes Llama by low-rank matrices only, for a fraction of the
memory (--lora_rank, --lora_alpha, --lora_targets):

    python -m eqids.train --train lora --load_checkpoint runs/stage1/1000 \\
        --checkpoint_dir runs/lora --num_steps 1000

More steps for a finished run, or the next day's data (docs/nightly.md), in the folder
runs/mine-more1:

    python -m eqids.train --continue_from runs/mine --data_dir data/today

A run from a folder that python -m convert eqids-to-hf wrote, with any --train:

    python -m eqids.train --init_from exported/mine --train all \\
        --checkpoint_dir runs/more

From Python, eqids.train(data_dir="data/mine", num_steps=1000) does the same; arguments
have the names of the flags.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, evaluates and prints what to type next."""
    description = DESCRIPTION + _recipes()

    def parse_over(defaults: Mapping[str, Any]) -> TrainConfig:
        return parse(TrainConfig, argv, "eqids.train", description, defaults)

    flags = _joined(parse_over({}), parse_over)
    if flags.estimate_memory_only:
        say(_memory(flags))
        return
    trained = _trained(flags)
    if not trained.finished:
        say(f"stopped at step {trained.step}; the same command goes on")


def train_model(
    data_dir: "Path | str | Dataset | None" = None,
    checkpoint_dir: Path | str | None = None,
    *,
    config: TrainConfig | None = None,
    report: Callable[[str], None] | None = None,
    progress: bool = False,
    **flags: Any,
) -> "TrainedRun":
    """Trains a recommender, as `python -m eqids.train` does; it is `eqids.train`.

        run = eqids.train("data/plays", max_minutes=10)
        eqids.load(run.checkpoint_dir).recommend([[50, 181, 172]])

    The same call resumes a run that was stopped, as the same command does. Ctrl-C saves
    the run and raises `eqids.config.Stopped`. It has to be called in the main thread,
    where Python handles signals.

    Args:
        data_dir: the dataset, or its folder. By default MovieLens-100K is fetched.
        checkpoint_dir: the folder of the run, by default below `runs/`.
        config: flags, where the arguments give none.
        report: receives the messages that the command prints. By default they are
            dropped, and warnings become Python's warnings.
        progress: whether to show progress bars.
        flags: flags of the command by name, see `eqids.config.TrainConfig`.

    Returns:
        The run's folder, its last step and its result.

    Raises:
        UserError: a flag is invalid, the dataset does not exist, or the loss is not
            finite.
        Stopped: a signal asked to stop; the last state is saved.
    """
    folder = getattr(data_dir, "path", data_dir)
    given = {"data_dir": folder, "checkpoint_dir": checkpoint_dir}
    given = {name: value for name, value in given.items() if value is not None} | flags

    def over(defaults: Mapping[str, Any]) -> TrainConfig:
        return config_of(TrainConfig, config, given, "eqids.train", defaults)

    with reported(report, progress):
        found = _joined(over({}), over)
        require(
            not found.estimate_memory_only,
            "eqids.train trains, and estimate_memory_only is given; wanted "
            "python -m eqids.train --estimate_memory_only",
        )
        return _trained(found)


def _joined(
    flags: TrainConfig, parse_over: Callable[[Mapping[str, Any]], TrainConfig]
) -> TrainConfig:
    """Joins the run's processes; returns its flags with those that it takes over."""
    # Imported late, here and below: --help and a mistyped flag do not wait for jax.
    with loading():
        from eqids.runs.taken_over_flags import flags_taken_over
        from sharding import initialize

    initialize(**dataclasses.asdict(flags.processes))
    return flags_taken_over(flags, parse_over, say)


def _memory(flags: TrainConfig) -> str:
    """Returns the memory that a step needs on a device, as text."""
    from eqids.planning.abstract import job_of_run
    from eqids.planning.layout_presets import estimated_placement
    from eqids.planning.memory_report import memory_report
    from eqids.runs.inputs import complete_inputs, open_inputs

    put = estimated_placement(flags.layout)
    inputs, sizes = complete_inputs(open_inputs(flags))
    job = job_of_run(inputs.config, sizes, inputs.prefix_length)
    return memory_report(job, put, flags.hardware)


def _trained(flags: TrainConfig) -> "TrainedRun":
    """Trains and evaluates; the command and the function share it."""
    from eqids.fit.loop import train
    from eqids.migrate.continued_run import begin_continued
    from eqids.planning.abstract import job_of_run
    from eqids.planning.layout_presets import placement_of
    from eqids.planning.memory_check import available_bytes, check_fits
    from eqids.runs.best_result import TrainedRun, report_best
    from eqids.runs.inputs import complete_inputs, open_inputs
    from eqids.runs.run_folder import locked_folder
    from eqids.runs.start_or_restore import start_or_restore

    put = placement_of(flags.layout)
    if flags.continue_from is not None:
        flags = begin_continued(flags, say)
    inputs = open_inputs(flags)
    with put.active(), locked_folder(inputs.config) as saver:
        inputs, sizes = complete_inputs(inputs)
        job = job_of_run(inputs.config, sizes, inputs.prefix_length)
        check_fits(job, put, available_bytes())
        run, state = start_or_restore(inputs, sizes, put, saver)
        trained = train(run, state)
        del state  # or there would be two in memory
        result = report_best(run, inputs.dataset) if trained.finished else None
    folder = inputs.config.checkpoint_dir
    return TrainedRun(folder, trained.step, trained.finished, result)


def _recipes() -> str:
    """Returns the values of flags that are not given, for --help."""
    rows = {"nano": NANO_RECIPE}
    for strategy in get_args(Strategy):
        rows[f"--train {strategy}"] = recipe_for(ML_100K, None, strategy)
    lines = [
        "", "Flags that are not given follow the data (docs/recipes.md), and a run",
        "prints what it chose. For MovieLens-100K, and over pretrained Llamas:", "",
    ]  # fmt: skip
    for name, recipe in rows.items():
        values = dataclasses.asdict(recipe).items()
        lines += [f"    {name}: " + ", ".join(f"{n} {v}" for n, v in values)]
    return "\n".join(lines)


make_callable(__name__, train_model)


if __name__ == "__main__":
    run_as_process(main)
