"""What `python -m eqids.checkpoint` does once its flags are read."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eqids.checkpoints import (
    Manifest,
    best_step,
    damaged,
    partials,
    read_manifest,
    resolve,
    steps,
    verify,
)
from eqids.checkpoints.manifest import MANIFEST, step_label
from eqids.cli import say
from eqids.config import (
    ExportConfig,
    ListStepsConfig,
    ShowStepConfig,
    UserError,
    VerifyConfig,
    require,
)

Config = ListStepsConfig | VerifyConfig | ShowStepConfig | ExportConfig


def answer(config: Config) -> None:
    """Lists, verifies, shows or exports checkpoints."""
    match config:
        case ListStepsConfig():
            list_steps(config.dir)
        case VerifyConfig():
            verify_steps(config.path)
        case ShowStepConfig():
            show(config.path)
        case ExportConfig():
            export(config.path, config.output)


def list_steps(directory: Path) -> None:
    """List the steps of a run: size, date, score (NDCG@10 on validation), the best.

    Args:
        directory: the run's folder, DIR.
    """
    rows: dict[int, Manifest | UserError] = {}
    for step in _run_steps(directory):
        try:
            rows[step] = read_manifest(directory / str(step))
        except UserError as error:
            rows[step] = error
    # Among steps that cannot be read may be the best one.
    sound = all(isinstance(row, Manifest) for row in rows.values())
    best = best_step(directory) if sound else None
    say(f"{'step':>10}  {'size':>10}  {'saved':<25}  {'score':>7}")
    for step, row in rows.items():
        if isinstance(row, UserError):
            say(f"{step:>10}  {row}")
            continue
        size = _size(sum(file.size for file in row.files.values()))
        text = f"{step:>10}  {size:>10}  {row.saved:<25}  {_score(row):>7}"
        say(f"{text}  best" if step == best else text)
    _report_others(directory)


def verify_steps(path: Path) -> None:
    """Read and hash every file and every array; a damaged step ends with code 2.

    Args:
        path: one checkpoint, DIR/STEP, or DIR for all of a run.
    """
    require(path.is_dir(), f"{path}: no such folder, wanted DIR or DIR/STEP")
    one = (path / MANIFEST).exists() or (path.name.isdecimal() and not steps(path))
    chosen = [path] if one else [path / str(step) for step in _run_steps(path)]
    damaged = []
    for folder in chosen:
        problems = _verify(folder)
        say("\n".join(problems) or f"{folder}: sound")
        damaged += [step_label(folder)] if problems else []
    if not one:
        _report_others(path)
    if damaged:
        raise UserError(f"damaged: {', '.join(damaged)}")


def show(path: Path) -> None:
    """Show one checkpoint: its arrays with shapes, dtypes and sizes, and its facts.

    Args:
        path: the checkpoint, DIR/STEP, or DIR for a run's best.
    """
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


def export(path: Path, output: Path) -> None:
    """Write what was trained into one safetensors file: Llama's tensors under Hugging
    Face's names, items, adapters and softmax under eqids.

    Args:
        path: the checkpoint, DIR/STEP, or DIR for a run's best.
        output: the file to write, OUT.safetensors.
    """
    from eqids.export import exporting  # the others need not wait for models

    path = resolve(path)
    with _bar(None, "export") as bar:

        def advance(num_bytes: int, total: int) -> None:
            bar.total = total
            bar.update(num_bytes)

        exporting.export(path, output, advance)
    say(f"{path} written to {output} ({_size(output.stat().st_size)})")


def _run_steps(directory: Path) -> list[int]:
    require(directory.is_dir(), f"{directory}: no such folder, wanted a run's folder")
    found = steps(directory)
    require(
        bool(found or partials(directory) or damaged(directory)),
        f"{directory}: no checkpoint in it, wanted a run's folder",
    )
    return found


def _verify(path: Path) -> list[str]:
    try:
        manifest = read_manifest(path)
    except UserError as error:
        return [str(error)]
    total = sum(file.size for file in manifest.files.values())
    total += sum(record.num_bytes for record in manifest.arrays.values())
    with _bar(total, f"step {manifest.step}") as bar:
        return verify(path, bar.update)


def _report_others(directory: Path) -> None:
    for path in partials(directory):
        say(f"{path}: not a checkpoint, a save or deletion that has not ended")
    for path in damaged(directory):
        say(f"{path}: not a checkpoint any more, set aside as damaged")


def _bar(total: int | None, name: str) -> Any:
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)


def _score(manifest: Manifest) -> str:
    score = manifest.meta.get("score")
    return "-" if score is None else f"{score:.4f}"


def _size(num_bytes: int) -> str:
    if num_bytes < 1024:
        return f"{num_bytes} B"
    power = min((num_bytes.bit_length() - 1) // 10, 4)
    return f"{num_bytes / 1024**power:.1f} {' KMGT'[power]}iB"
