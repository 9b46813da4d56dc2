"""What every folder of an exported model holds beside the model: its items, and the
command that exports again."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from convert.outputs import OutputFolder
from eqids.config import ProgramsConfig, RunConfig, require
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.files import write_parquet
from eqids.inference.engine.prepared_query import window_step

MANIFEST = "manifest.json"


def check_output_folder(
    config: ProgramsConfig, command: str, parts: Collection[str]
) -> None:
    """Requires that the output is new, or an export that the flags let us replace.

    Args:
        config: names the output.
        command: the subcommand, for messages.
        parts: fields that the manifests of this command have.

    Raises:
        UserError: it exists and is not to be replaced, or is no such export.
    """
    output = config.output
    require(
        config.overwrite or not output.exists(),
        f"{output} exists already, wanted a new folder, or --overwrite to replace an "
        "export",
    )
    require(
        not output.exists() or _is_export(output, parts),
        f"{output} is no export of {command}, wanted one to --overwrite, or a new "
        "folder",
    )


def _is_export(folder: Path, parts: Collection[str]) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and set(parts) <= manifest.keys()


def write_items(
    new: OutputFolder, dataset: Dataset, tokens: ItemTokens | None
) -> list[str]:
    """Writes items.parquet, and items.json for the loader: both in the order of slots.

    In items.json an unused slot is null.

    Args:
        new: the folder.
        dataset: the catalog.
        tokens: of the items' texts, or none.

    Returns:
        The id and the title of each slot's item, in a line; an empty one for none.
    """
    frame = dataset.items()
    rows: list[Any] = [None] * dataset.num_slots
    for item, title, slot in zip(
        frame["item"].astype(str), frame["title"], frame["slot"].tolist(), strict=True
    ):
        text: list[int] = []
        if tokens is not None:
            first = tokens.first[slot]
            text = tokens.ids[first : first + tokens.length[slot]].tolist()
        rows[slot] = [item, title if isinstance(title, str) else "", text]
    order = frame.sort_values("slot")
    columns = ("item", "title", "slot", "retired")
    table = pa.table({name: pa.Array.from_pandas(order[name]) for name in columns})
    new.write_with("items.parquet", lambda path: write_parquet(path, table))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    new.write("items.json", ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return [" ".join(" ".join(row[:2]).split()) if row else "" for row in rows]


def facts_of_histories(
    config: RunConfig, dataset: Dataset, tokens: ItemTokens | None
) -> Mapping[str, Any]:
    """Returns what a manifest says of the catalog, and how histories are read.

    Args:
        config: of the run.
        dataset: the catalog.
        tokens: of the items' texts, or none; with the prompt that rows hold.
    """
    seq_len = config.recipe.seq_len
    return {
        "catalog_id": dataset.info.catalog_id,
        "catalog_version": dataset.info.catalog_version,
        "seq_len": seq_len,
        "window_step": window_step(seq_len, tokens),
        "prompt": [] if tokens is None else tokens.prompt.tolist(),
    }


def command_words(name: str, config: ProgramsConfig) -> Iterator[str]:
    """Yields the words of the command that exports again.

    Args:
        name: the subcommand.
        config: its flags.
    """
    yield from ("python", "-m", "convert", name, str(config.input), str(config.output))
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("input", "output", "overwrite") or value in (None, ()):
            continue
        if isinstance(value, bool):
            if value != field.default and field.default is not MISSING:
                yield f"--{field.name}" if value else f"--no_{field.name}"
            continue
        yield f"--{field.name}"
        yield from map(str, value if isinstance(value, tuple) else (value,))
    yield "--overwrite"
