"""What a run prints when it starts and when it has ended."""

from pathlib import Path

import jax

from eqids.cli import shell_word
from eqids.config import LlamaConfig, RunConfig, recipe_text
from eqids.data import Dataset
from eqids.fit.results import REPORT_FILE, RESULT_FILE
from eqids.fit.step import State
from eqids.runs.inputs import RunInputs


def first_lines(inputs: RunInputs, llama: LlamaConfig, state: State) -> str:
    """Returns lines about the dataset, the recipe, the trained weights, and where the
    run starts.

    Args:
        inputs: the run's inputs.
        llama: sizes of its Llama.
        state: where it starts.
    """
    config, dataset, tokens = inputs.config, inputs.dataset, inputs.tokens
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    info, recipe, step = dataset.info, config.recipe, int(state.step)
    lines = [
        f"{info.num_users:,} users, {info.num_items:,} items in {info.num_clusters:,} "
        f"clusters, {info.num_events:,} events ({dataset.path})",
        recipe_text(inputs.facts, recipe, _llama(config, llama)),
        f"{config.strategy}: {num_params:,} parameters train, into "
        f"{config.checkpoint_dir}",
    ]
    if tokens is not None:
        lines.append(
            f"tokens: {len(tokens.prompt)} of the prompt, then at most "
            f"{tokens.per_item} an item, {tokens.length[dataset.slots].mean():.1f} on "
            "average"
        )
    if recipe.text_width:
        learned = recipe.item_width - recipe.text_width
        lines.append(
            f"item vectors: {learned} learned columns, {recipe.text_width} of texts"
        )
    if jax.process_count() > 1:
        lines.append(
            f"{jax.process_count()} processes with {jax.device_count()} devices; if "
            f"one ends, the others do within {config.flags.processes.heartbeat} s"
        )
    items = config.flags.item_optimizer
    if items != "dense":
        lines.append(f"{items} updates item tables, in the clusters of each batch")
    if step:
        lines.append(f"going on from step {step}, found in {config.checkpoint_dir}")
    return "\n".join(lines)


def _llama(config: RunConfig, llama: LlamaConfig) -> str:
    """A Llama as messages name it: `nano 64 x 2`."""
    flags = config.flags
    name: str | None = flags.llama_size
    if flags.llama_path is not None:
        name = flags.llama_path.name
    elif flags.llama_config is not None:
        name = flags.llama_config.stem
    return f"{name} {llama.width} x {llama.num_layers}"


def next_command(folder: Path, dataset: Dataset) -> str:
    """Returns where a run's result is, and the commands to type next."""
    user = shell_word(str(dataset.users()["user"].iloc[0]))
    return (
        f"result in {folder / RESULT_FILE}; now ask for recommendations, or draw a "
        "report with pictures:\n"
        f"  python -m eqids.recommend --checkpoint {folder} --user {user}\n"
        f"  python -m eqids.report {folder} --output {folder / REPORT_FILE}"
    )
