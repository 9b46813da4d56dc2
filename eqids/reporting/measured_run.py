"""A run with one pass over the users of a split, computed once and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt16

from eqids.checkpoints import read_manifest, resolve
from eqids.checkpoints.manifest import MANIFEST
from eqids.config import ReportConfig, RunConfig, from_json
from eqids.config.slots import cluster_of
from eqids.data import Dataset
from eqids.fit.evaluation import Split, make_ranker, of_some_users, targets_of
from eqids.fit.log import METRICS_FILE
from eqids.fit.top_lists import TopLists, UserPass, make_lister, pass_over_users
from eqids.inference.item_directions import directions, map_clusters, map_positions
from eqids.inference.open import Opened, open_checkpoint
from eqids.io.cache_folder import cache_folder
from eqids.io.cached_arrays import read_arrays, write_arrays
from eqids.runs.recorded_folders import dataset_of
from eqids.runs.same_catalog import check_catalog
from sharding import placement

DEFINITION = 1
"""Version of cached passes: increase it whenever a change may change them."""

MOST_POINTS = 3_000
"""Items on a map, the most popular ones."""
_CLUSTERS = 24
"""Clusters that are made for the map of a catalog that has one."""


@dataclass(frozen=True, eq=False)
class ItemMap:
    """Where items are by the principal components of their vectors.

    Attributes:
        slots: the items, the most popular first.
        position: from 0 to 65535, of x and of y.
        cluster: the cluster of each, of the model or made for the map.
    """

    slots: Int32[np.ndarray, " point"]
    position: UInt16[np.ndarray, "point 2"]
    cluster: Int32[np.ndarray, " point"]


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run, and what one pass over its users finds.

    Attributes:
        path: the checkpoint, DIR/STEP.
        step: its step.
        config: of the run.
        found: ranks and lists of every user.
        map: the items on a map.
        curves: the lines of the run's metrics.jsonl, oldest first; empty without one.
    """

    path: Path
    step: int
    config: RunConfig
    found: UserPass
    map: ItemMap
    curves: tuple[Mapping[str, float | int], ...]

    @property
    def request_time(self) -> bool:
        """Whether the model knows when each target was requested."""
        return self.config.flags.request_time


@dataclass(frozen=True, eq=False)
class FoundRun:
    """A run before it is measured.

    Attributes:
        path: the checkpoint, DIR/STEP.
        step: its step.
        config: of the run.
        dataset: its dataset, with the targets of the users to evaluate.
    """

    path: Path
    step: int
    config: RunConfig
    dataset: Dataset


def find_run(named: Path, config: ReportConfig) -> FoundRun:
    """Returns a run with its dataset; the model is not opened.

    Args:
        named: a checkpoint, or a run's folder.
        config: the flags.

    Raises:
        UserError: the checkpoint or its dataset cannot be opened.
    """
    path = resolve(named, "RUN")
    manifest = read_manifest(path)
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    whole = dataset_of(path, run, config.data_dir)
    check_catalog(path, manifest.meta, whole)
    dataset = of_some_users(whole, config.eval_users)
    return FoundRun(path, manifest.step, run, dataset)


def measure(
    run: FoundRun, config: ReportConfig, report: Callable[[str], None]
) -> MeasuredRun:
    """Returns a run with its pass over the users, from the cache or computed now.

    Args:
        run: from `find_run`.
        config: the flags.
        report: receives messages about what takes long.

    Raises:
        UserError: the checkpoint cannot be opened.
    """
    source = {"key": _key(run.path, run.dataset, config.split)}
    file = cache_folder() / "passes" / f"{source['key']}.safetensors"
    arrays = read_arrays(file, source)
    if arrays is None:
        report(f"evaluating {run.path} on {config.split}, once: the result is kept")
        arrays = _arrays(run.path, config, run.dataset)
        file.parent.mkdir(exist_ok=True)
        write_arrays(file, arrays, source, report, "it will be evaluated again")
    curves = _curves(run.path.parent)
    return MeasuredRun(
        run.path, run.step, run.config, _pass(arrays), _map(arrays), curves
    )


def _key(path: Path, dataset: Dataset, split: Split) -> str:
    """A hash of all that a pass depends on; the manifest has those of all arrays."""
    digest = hashlib.sha256((path / MANIFEST).read_bytes())
    about = [DEFINITION, dataset.info.dataset_hash, split]
    digest.update(json.dumps(about).encode())
    for array in targets_of(dataset, split):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def _arrays(
    path: Path, config: ReportConfig, dataset: Dataset
) -> Mapping[str, np.ndarray]:
    put = placement("data")
    with put.active():
        opened = open_checkpoint(
            path, config.data_dir, config.llama_path, put, config.tokenizer
        )
        seq_len = opened.config.recipe.seq_len
        ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
        found = pass_over_users(
            opened.model, dataset, config.split, ranker, make_lister(put)
        )
        shown = _item_map(opened)
    lists = {"filtered": found.filtered, "unfiltered": found.unfiltered}
    arrays: dict[str, np.ndarray] = {}
    for name, one in lists.items():
        assert one.log_probs is not None
        arrays |= {f"{name}_slots": one.slots, f"{name}_log_probs": one.log_probs}
    return {
        "ranked": found.ranked,
        **arrays,
        "map_slots": shown.slots,
        "map_position": shown.position,
        "map_cluster": shown.cluster,
    }


def _pass(arrays: Mapping[str, np.ndarray]) -> UserPass:
    lists = [
        TopLists(arrays[f"{name}_slots"], arrays[f"{name}_log_probs"])
        for name in ("filtered", "unfiltered")
    ]
    return UserPass(arrays["ranked"], *lists)


def _map(arrays: Mapping[str, np.ndarray]) -> ItemMap:
    names = ("slots", "position", "cluster")
    return ItemMap(*(arrays[f"map_{name}"] for name in names))


def _item_map(opened: Opened) -> ItemMap:
    """The most popular items on a map; the axes are those of all items."""
    dataset, softmax = opened.dataset, opened.model.softmax
    parts = [x for x in (softmax.table, softmax.text) if x is not None]
    vectors = np.concatenate([np.asarray(x, np.float32) for x in parts], axis=-1)
    found = directions(vectors)
    slots = np.flatnonzero(dataset.item_valid)
    popular = np.argsort(-dataset.item_counts.reshape(-1)[slots], kind="stable")
    shown = slots[popular][:MOST_POINTS].astype(np.int32)
    if dataset.info.num_clusters > 1:
        cluster = cluster_of(shown, dataset.info.cluster_size)
    else:
        cluster = map_clusters(found, shown, _CLUSTERS)
    position = map_positions(found, slots, shown)
    return ItemMap(shown, position, cluster.astype(np.int32))


def _curves(folder: Path) -> tuple[Mapping[str, float | int], ...]:
    """The lines of metrics.jsonl; one that is no JSON was cut off by a kill."""
    path, found = folder / METRICS_FILE, []
    if not path.is_file():
        return ()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and isinstance(one.get("step"), int):
            found.append(one)
    return tuple(found)
