"""Opens the model that the server answers with, at the start and at a reload."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from convert.hf_eqids import is_pair
from eqids.checkpoints import resolve, verify
from eqids.config import OpenConfig, ServeConfig, require
from eqids.data import Dataset
from eqids.inference.compilation_cache import keep_compiled_programs
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.open import open_model
from eqids.inference.server.filter_file import with_filters
from eqids.inference.server.served_catalog import ServedCatalog
from sharding import placement


@dataclass(frozen=True)
class OpenReport:
    """What is said while a model is opened."""

    compiled: Callable[[int, int], None]
    """Receives how many programs are compiled, and how many there are."""
    warn: Callable[[str], None]
    """Receives warnings."""


def open_first(config: ServeConfig, report: OpenReport) -> ServedCatalog:
    """Opens and compiles the model that the flags name.

    Args:
        config: the command's flags.
        report: see `OpenReport`.

    Raises:
        UserError: see `open_model`.
    """
    if not config.no_compilation_cache:
        keep_compiled_programs()
    return _compiled(config, config, None, report)


def open_beside(
    config: ServeConfig,
    checkpoint: Path,
    data_dir: Path | None,
    now: ServedModel,
    report: OpenReport,
) -> ServedCatalog:
    """Verifies, opens and compiles another checkpoint than the served one.

    Args:
        config: the command's flags.
        checkpoint: DIR/STEP, or a run's DIR for its best step, or an exported pair.
        data_dir: its dataset folder, by default `--data_dir`, or else that of its run.
        now: what is served.
        report: see `OpenReport`.

    Raises:
        UserError: it is damaged, or has another catalog than the served one in each of
            its versions.
    """
    data_dir = data_dir or config.data_dir
    if is_pair(checkpoint):
        asked = OpenConfig(init_from=checkpoint, data_dir=data_dir)
    else:
        checkpoint = resolve(checkpoint)
        problems = verify(checkpoint)
        require(not problems, problems[0] if problems else "")
        asked = OpenConfig(
            checkpoint=checkpoint, data_dir=data_dir, llama_path=config.llama_path
        )
    asked = replace(asked, tokenizer=config.tokenizer)
    return _compiled(config, asked, now, report)


def _compiled(
    config: ServeConfig, asked: OpenConfig, now: ServedModel | None, report: OpenReport
) -> ServedCatalog:
    opened = open_model(asked, placement("none"))
    if now is not None:
        _check_versions(opened.path, opened.dataset, now.dataset)
    served = ServedModel(
        opened,
        max_batch=config.max_batch,
        max_k=config.max_k,
        history_cache_mb=None if config.cache_mb is None else float(config.cache_mb),
        programs_of=now,
    )
    served.compile(report.compiled)
    return with_filters(ServedCatalog.of(served), config.filters, report.warn)


def _check_versions(path: Path, new: Dataset, now: Dataset) -> None:
    """Requires that two datasets have versions of one catalog."""
    old_id, new_id = now.info.catalog_id, new.info.catalog_id
    require(
        old_id == new_id
        or old_id in new.lineage.catalog_ids
        or new_id in now.lineage.catalog_ids,
        f"{path} has the catalog of {new.path}, which is no version of the served one "
        f"of {now.path}; wanted a checkpoint of the same catalog",
    )
