"""The sections of a report that begin and end it: what it is about, how it was made."""

from importlib.metadata import PackageNotFoundError, version

from eqids.cli import shell_word
from eqids.config import to_json
from eqids.data.raw.times import date
from eqids.reporting.html_parts import command, facts, note, section
from eqids.reporting.measured_run import MeasuredRun
from eqids.reporting.report_data import ReportData
from eqids.reporting.sections_accuracy import ndcg_intervals
from eqids.reporting.sections_slices import percent
from eqids.reporting.svg import element, escaped
from eqids.reporting.train_command import train_command

_REPEATED = (
    "The command to train has every flag whose recorded value is not the default, "
    "those that were chosen from the data or the device among them: a run does not "
    "record which of them were given. A dataset records its source and its protocol, "
    "which are above, and not the command that prepared it."
)


def summary(data: ReportData) -> str:
    """Returns what a reader should know first, in sentences."""
    intervals = ndcg_intervals(data)
    own = list(zip(data.runs, intervals, strict=False))
    said = [
        f"{one.label}: NDCG@10 {mean.mean:.4f} (95% interval {mean.low:.4f} to "
        f"{mean.high:.4f})"
        for one, mean in own
    ]
    counted = list(zip(data.baselines, intervals[len(own) :], strict=True))
    if counted:
        best, mean = max(counted, key=lambda one: one[1].mean)
        said.append(f"best of the counting baselines: {best.label}, {mean.mean:.4f}")
    info = data.dataset.info
    about = (
        f"{data.split} split, {len(data.users):,} users, {info.num_items:,} items, "
        f"{info.num_events:,} events"
    )
    if data.target_seen.any():
        about += (
            f"; {percent(data.target_seen.mean())} of the targets are items that the "
            "user had before, and count as missed where seen items are filtered"
        )
    lines = [element("p", escaped(about), class_="note")]
    lines += [element("p", escaped(one), class_="lead") for one in said]
    return element("div", *lines, class_="summary")


def protocol(data: ReportData) -> str:
    """Returns the section of the protocol and of the commands that reproduce it."""
    info, first = data.dataset.info, data.runs[0]
    assert first.run is not None
    found = {
        "split": data.split,
        "ranked": "the full catalog; rank = 1 + items strictly above + half the ties",
        "seen items": "of the history are left out, and a target among them is missed, "
        "unless said otherwise",
        "targets seen before": f"{data.target_seen.sum():,} of {len(data.users):,} "
        f"({percent(data.target_seen.mean())})",
        "source": info.source,
        "dataset": f"{data.dataset.path}, hash {info.dataset_hash}",
        "catalog": info.catalog_id,
        **{f"protocol: {k}": _shown(k, v) for k, v in to_json(info.protocol).items()},
        "request time": "known to the model" if first.run.request_time else "not known",
        "intervals": "paired bootstrap over users, 1,000 samples, 95%",
        "EqIDs": _version(),
    }
    commands = [
        "python -m eqids.report "
        + " ".join(shell_word(str(one.run.path)) for one in data.runs if one.run)
        + f" --output {shell_word(str(data.config.output))}{_flags(data)}"
    ]
    commands += [train_command(one.run.config) for one in data.runs if one.run]
    commands += [
        f"python -m eqids.evaluate --checkpoint {shell_word(str(one.run.path))} "
        f"--split {data.split} --metrics all"
        for one in data.runs
        if one.run
    ]
    settings = [
        facts({"run": one.label, "checkpoint": str(one.run.path), **_settings(one.run)})
        for one in data.runs
        if one.run
    ]
    return section(
        "protocol", "Protocol, and how to repeat it",
        note("Results are comparable only if all of this is equal."), facts(found),
        command("\n".join(commands)), note(_REPEATED), *settings,
    )  # fmt: skip


def _settings(run: MeasuredRun) -> dict[str, str]:
    config, flags = run.config, run.config.flags
    recipe = ", ".join(f"{k} {v}" for k, v in to_json(config.recipe).items())
    return {
        "Llama": str(flags.llama_path or flags.llama_size or "chosen by the data"),
        "trains": config.strategy,
        "seed": str(flags.seed),
        "recipe": recipe,
    }


def _flags(data: ReportData) -> str:
    config, found = data.config, ""
    if config.split != "test":
        found += f" --split {config.split}"
    for name in ("eval_users", "user_columns", "data_dir"):
        value = getattr(config, name)
        if value is not None:
            found += f" --{name} {shell_word(str(value))}"
    return found


def _shown(name: str, value: object) -> str:
    if name in ("valid_from", "test_from") and isinstance(value, int):
        return f"{value} ({date(value)})"
    return "none" if value is None else str(value)


def _version() -> str:
    try:
        return version("eqids")
    except PackageNotFoundError:
        return "from its source, not installed"
