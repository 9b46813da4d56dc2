"""Change a catalog: `python -m eqids.catalog {add,retire,grow,rebalance,…}`."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import tyro

from eqids.config import (
    AddConfig,
    ChangeConfig,
    GrowConfig,
    MigrateConfig,
    RebalanceConfig,
    RetireConfig,
    ShowConfig,
)
from eqids.data import Dataset, open_dataset
from eqids.data.catalog import Catalog
from eqids.data.lineage import Change
from eqids.data.named import read_items, read_vectors
from eqids.data.revise import catalog_of, id_type, ids_of, revise, spelled_like
from eqids.door import run

DESCRIPTION = """Change the items of a dataset, and bring a checkpoint along.

    python -m eqids.catalog add --data_dir data/shop --items new.csv
    python -m eqids.catalog retire --data_dir data/shop --ids 17,1821 \\
        --checkpoint runs/shop
    python -m eqids.catalog migrate --data_dir data/shop --checkpoint runs/shop
    python -m eqids.catalog show --data_dir data/shop

Every change makes the next version of the catalog. Items keep their places, but for
those that move when a cluster divides. A checkpoint of any earlier version can be
brought to the present one, and its training goes on from there.
"""
Config = AddConfig | RetireConfig | GrowConfig | RebalanceConfig | MigrateConfig
Next = tuple[Catalog, Change, pa.Table | None]
"""A version of a catalog, what leads to it, and the names of the items it adds."""

COMMANDS = {
    "add": AddConfig,
    "retire": RetireConfig,
    "grow": GrowConfig,
    "rebalance": RebalanceConfig,
    "migrate": MigrateConfig,
    "show": ShowConfig,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Changes a catalog, migrates a checkpoint, and says what became of both."""
    config = tyro.extras.subcommand_cli_from_dict(
        dict(COMMANDS),
        prog="python -m eqids.catalog",
        description=DESCRIPTION,
        args=argv,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    dataset = open_dataset(config.data_dir)
    if isinstance(config, ShowConfig):
        print("\n".join(_shown(dataset)))
        return
    before = catalog_of(dataset)
    catalog, change, named = _next(config, dataset, before)
    print(_summary(before, catalog, change))
    if config.checkpoint is None:
        if not config.dry_run and catalog.version > before.version:
            revise(dataset, catalog, change, named)
    else:
        _with_checkpoint(config, dataset, (catalog, change, named))
    if config.dry_run:
        print("nothing was written (--dry_run)")


def _next(config: Config, dataset: Dataset, catalog: Catalog) -> Next:
    if isinstance(config, AddConfig):
        return _add(config, dataset, catalog)
    if isinstance(config, RetireConfig):
        return *catalog.retire(_retired(config, dataset)), None
    if isinstance(config, GrowConfig):
        more = config.clusters
        if more is None:
            assert config.free_share is not None
            places = len(catalog.items) / (1 - config.free_share)
            more = int(np.ceil(places / catalog.room)) - catalog.num_clusters
        if more > 0 or config.clusters is not None:
            return *catalog.grow(more), None
    if isinstance(config, RebalanceConfig):
        unused = catalog.retired & ~np.isin(catalog.slot, dataset.slots)
        forget = catalog.items[unused]
        return *catalog.rebalance(config.free_share, forget), None
    return catalog, Change(catalog.num_clusters), None


def _add(config: AddConfig, dataset: Dataset, catalog: Catalog) -> Next:
    found = read_items(
        config.items,
        id_type(dataset),
        config.item_column,
        config.title_column,
        config.text_column,
        config.similar_column,
    )
    vectors = None
    if config.vectors is not None:
        width = catalog.vectors.shape[1]
        vectors = read_vectors(config.vectors, len(found.ids), width)
    return *catalog.add(found.ids, vectors, found.similar), found.table


def _retired(config: RetireConfig, dataset: Dataset) -> np.ndarray:
    if config.items is not None:
        return read_items(config.items, id_type(dataset), config.item_column).ids
    assert config.ids is not None
    ids = [one.strip() for one in config.ids.split(",") if one.strip()]
    return ids_of(spelled_like(pa.chunked_array([pa.array(ids)]), id_type(dataset)))


def _with_checkpoint(config: ChangeConfig, dataset: Dataset, after: Next) -> None:
    # Doors that need no model should not pay for importing jax.
    from eqids.migration import Migration, report

    catalog, change, named = after
    assert config.checkpoint is not None
    migration = Migration(
        config.checkpoint, config.output, dataset, catalog.version, config.llama_path
    )
    print(f"{migration.path} becomes {migration.target}")
    if config.dry_run:
        return
    metrics = {"before": migration.before()}
    if catalog.version > dataset.info.catalog_version:
        dataset = revise(dataset, catalog, change, named)
    metrics["after"] = migration.write(dataset)
    print(report(metrics))
    print(f"train on with --load_checkpoint {migration.target}")


def _summary(before: Catalog, after: Catalog, change: Change) -> str:
    if after.version == before.version:
        return f"version {before.version} stays as it is"
    forgotten = len(before.items) + len(change.added) - len(after.items)
    counts = {
        "added": len(change.added),
        "back": len(change.revived),
        "retired": len(change.retired),
        "forgotten": forgotten,
        "moved": len(change.left),
    }
    did = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    return f"version {after.version}: items {did or 'as before'}; {_sizes(after)}"


def _sizes(catalog: Catalog) -> str:
    num_slots = catalog.num_clusters * catalog.room
    free = num_slots - len(catalog.items)
    empty = int((catalog.sizes == 0).sum())
    return (
        f"{catalog.num_clusters:,} clusters of {catalog.room:,} places ({empty:,} "
        f"empty), {free:,} places free ({free / num_slots:.1%})"
    )


def _shown(dataset: Dataset) -> list[str]:
    catalog, lineage = catalog_of(dataset), dataset.lineage
    lines = [f"version 1: {len(lineage.valid):,} clusters"]
    for version, change in enumerate(lineage.changes, start=2):
        lines.append(
            f"version {version}: {change.num_clusters:,} clusters; {len(change.added)} "
            f"items added, {len(change.revived)} back, {len(change.retired)} retired, "
            f"{len(change.left)} moved"
        )
    retired = int(catalog.retired.sum())
    full = int((catalog.sizes == catalog.room).sum())
    lines.append(
        f"{len(catalog.items):,} items, {retired:,} of them retired; "
        f"{_sizes(catalog)}, {full:,} clusters full"
    )
    lines.append(f"catalog   {dataset.info.catalog_id}")
    return lines


if __name__ == "__main__":
    run(main)
