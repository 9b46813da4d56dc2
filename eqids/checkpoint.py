"""Look after checkpoints: `python -m eqids.checkpoint {list,verify,show,export}`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eqids.cli import Counted, parse_command, run_as_process, say
from eqids.cli.commands import COMMANDS
from eqids.config import (
    ExportConfig,
    ListStepsConfig,
    ShowStepConfig,
    UserError,
    VerifyConfig,
)

if TYPE_CHECKING:
    from eqids.checkpoints import Manifest

DESCRIPTION = """Look after a run's checkpoints, whose folders are DIR/STEP.

    python -m eqids.checkpoint list runs/mine
    python -m eqids.checkpoint verify runs/mine
    python -m eqids.checkpoint show runs/mine/600
    python -m eqids.checkpoint export runs/mine/600 weights.safetensors
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, verifies, shows or exports checkpoints."""
    command = COMMANDS["eqids.checkpoint"]
    config = parse_command(
        command.kinds,
        argv,
        "eqids.checkpoint",
        DESCRIPTION,
        positional=command.positional,
    )
    match config:
        case ListStepsConfig():
            _list(config.dir)
        case VerifyConfig():
            _verify(config.path)
        case ShowStepConfig():
            _show(config.path)
        case ExportConfig():
            _export(config.path, config.output)


def _list(directory: Path) -> None:
    """Prints the steps of a run: size, date, score (NDCG@10 on validation), the best.

    Args:
        directory: the run's folder, DIR.
    """
    from eqids.checkpoints.listing import list_steps

    listed = list_steps(directory)
    say(f"{'step':>10}  {'size':>10}  {'saved':<25}  {'score':>7}")
    for row in listed:
        manifest = row.manifest
        if isinstance(manifest, UserError):
            say(f"{row.step:>10}  {manifest}")
            continue
        size = _size(sum(file.size for file in manifest.files.values()))
        text = f"{row.step:>10}  {size:>10}  {manifest.saved:<25}  "
        say(f"{text}{_score(manifest):>7}" + ("  best" if row.best else ""))
    _warn_of_others(directory)


def _verify(path: Path) -> None:
    """Reads and hashes every file and every array; raises if a step is damaged.

    Args:
        path: one checkpoint, DIR/STEP, or DIR for all steps of a run.
    """
    from eqids.checkpoints.listing import is_step, run_steps
    from eqids.checkpoints.manifest import step_label

    one = is_step(path)
    damaged = []
    for folder in [path] if one else [path / str(step) for step in run_steps(path)]:
        problems = _problems(folder)
        say("\n".join(problems) or f"{folder}: sound")
        damaged += [step_label(folder)] if problems else []
    if not one:
        _warn_of_others(path)
    if damaged:
        raise UserError(f"damaged: {', '.join(damaged)}")


def _show(path: Path) -> None:
    """Prints the arrays of a checkpoint with shapes, dtypes and sizes, and its meta.

    Args:
        path: the checkpoint, DIR/STEP, or DIR for a run's best.
    """
    import json

    from eqids.checkpoints import read_manifest, resolve

    path = resolve(path)
    manifest = read_manifest(path)
    width = max([len(name) for name in manifest.arrays], default=0)
    for name, record in manifest.arrays.items():
        dtype = f"{record.dtype} keys" if record.key else record.dtype
        shape = str(list(record.shape))
        say(f"{name:<{width}}  {dtype:<10}  {shape:<20}  {_size(record.num_bytes)}")
    total = sum(record.num_bytes for record in manifest.arrays.values())
    say(
        f"\nstep {manifest.step} in {path}, saved {manifest.saved}, score "
        f"{_score(manifest)}: {len(manifest.arrays)} arrays of {_size(total)} in "
        f"{len(manifest.files)} files\n"
    )
    say(json.dumps(manifest.meta, indent=2, ensure_ascii=False))


def _export(path: Path, output: Path) -> None:
    """Writes the trained arrays into one safetensors file: Llama's tensors under
    Hugging Face's names, items, adapters and softmax under `eqids.`.

    Args:
        path: the checkpoint, DIR/STEP, or DIR for a run's best.
        output: the file to write, OUT.safetensors.
    """
    from eqids.checkpoints import resolve
    from eqids.export.trained_arrays import export_trained

    path = resolve(path)
    with Counted(f"writing {output.name}", 0) as counted:
        export_trained(path, output, counted.advance)
    say(f"{path} written to {output} ({_size(output.stat().st_size)})")


def _problems(path: Path) -> list[str]:
    """Returns what is wrong with a checkpoint, and shows progress meanwhile."""
    from eqids.checkpoints import read_manifest, verify
    from eqids.checkpoints.listing import verified_bytes

    try:
        manifest = read_manifest(path)
    except UserError as error:
        return [str(error)]
    total, name = verified_bytes(manifest), f"step {manifest.step}"
    with Counted(f"verifying {name}", total) as counted:
        return verify(path, counted.update)


def _warn_of_others(directory: Path) -> None:
    """Prints the folders that were checkpoints once, or were to become one."""
    from eqids.checkpoints import damaged, partials

    for path in partials(directory):
        say(f"{path}: not a checkpoint, a save or deletion is unfinished")
    for path in damaged(directory):
        say(f"{path}: not a checkpoint any more, set aside as damaged")


def _score(manifest: "Manifest") -> str:
    score = manifest.meta.get("score")
    return "-" if score is None else f"{score:.4f}"


def _size(num_bytes: int) -> str:
    if num_bytes < 1024:
        return f"{num_bytes} B"
    power = min((num_bytes.bit_length() - 1) // 10, 4)
    return f"{num_bytes / 1024**power:.1f} {' KMGT'[power]}iB"


if __name__ == "__main__":
    run_as_process(main)
