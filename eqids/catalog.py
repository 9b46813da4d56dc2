"""Change a catalog: `python -m eqids.catalog {add,retire,grow,rebalance,…}`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eqids.cli import loading, parse_command, run_as_process, say
from eqids.cli.commands import COMMANDS
from eqids.config import AddConfig, ChangeConfig, ShowConfig

if TYPE_CHECKING:
    from eqids.data import Dataset
    from eqids.data.catalog.living_catalog import Catalog
    from eqids.migrate.catalog_changes import PlannedChange

DESCRIPTION = """Change the items of a dataset, and migrate a checkpoint.

    python -m eqids.catalog add --data_dir data/shop --items new.csv
    python -m eqids.catalog retire --data_dir data/shop --ids 17,1821 \\
        --checkpoint runs/shop
    python -m eqids.catalog migrate --data_dir data/shop --checkpoint runs/shop
    python -m eqids.catalog show --data_dir data/shop

Every change makes the next version of the catalog. New items go to the free places of
the most similar cluster; retired items get probability zero. An item changes its slot
only if its cluster is divided. A checkpoint of any older version can be migrated to
the present one, and its training continues from there.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Changes a catalog, migrates a checkpoint, and says what was done."""
    command = COMMANDS["eqids.catalog"]
    config = parse_command(command.kinds, argv, "eqids.catalog", DESCRIPTION)
    # Imported here: --help and a mistyped flag do not wait for these.
    from eqids.data import open_dataset
    from eqids.migrate.catalog_changes import plan_change

    dataset = open_dataset(config.data_dir)
    if isinstance(config, ShowConfig):
        say("\n".join(_versions(dataset)))
        return
    assert isinstance(config, ChangeConfig)
    planned = plan_change(config, dataset)
    for note in _notes(config, dataset, planned):
        say(note)
    if config.checkpoint is not None:
        _change_and_migrate(config, dataset, planned)
    else:
        if not config.dry_run:
            planned.write(dataset)
        say(_summary(planned))
    if config.dry_run:
        say("nothing was written (--dry_run)")


def _change_and_migrate(
    config: ChangeConfig, dataset: "Dataset", planned: "PlannedChange"
) -> None:
    # Imported here: a command without a checkpoint does not wait for jax.
    with loading():
        from eqids.migrate.measured_migration import MeasuredMigration
        from eqids.migrate.migration_plan import plan_migration

    assert config.checkpoint is not None
    plan = plan_migration(
        config.checkpoint, config.output, dataset, planned.after.version
    )
    migration = MeasuredMigration(config, plan, dataset)
    path, target = plan.checkpoint, plan.target
    if config.dry_run:
        say(_summary(planned))
        say(f"{path} becomes {target}")
        return
    before = migration.measure(planned.change)
    dataset = planned.write(dataset)
    say(_summary(planned))
    after = migration.write(dataset)
    say(f"{path} became {target}")
    say("\n".join(_metrics({"before": before, "after": after})))
    say(
        "to continue the run with its optimizer, repeat its command with "
        f"--data_dir {dataset.path} --checkpoint_dir {target.parent}; to start a new "
        f"run from its weights: --load_checkpoint {target}"
    )


def _notes(
    config: ChangeConfig, dataset: "Dataset", planned: "PlannedChange"
) -> Iterator[str]:
    """Says what is unusual about the items of --items."""
    given = planned.given
    if not isinstance(config, AddConfig):
        return
    if given.template is not None and dataset.info.texts is not None:
        yield (
            f"texts of these items are made by {given.template!r}, those of "
            f"{dataset.path} by {dataset.info.texts.template!r}"
        )
    if given.untitled:
        yield (
            f"warning: {config.items} has no title for {given.untitled:,} of "
            f"{given.num_items:,} items; their ids are their titles"
        )
    if given.keep_texts:
        yield (
            f"{given.keep_texts:,} items that return from retirement keep the title "
            "and text that they had"
        )


def _summary(planned: "PlannedChange") -> str:
    after, change, given = planned.after, planned.change, planned.given
    counts = {"items left out": given.left_out, "named again": given.repeated}
    others = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    left_out = f" ({others})" if others else ""
    if after.version == planned.before.version:
        return f"version {after.version} stays as it is{left_out}"
    counts = {
        "added": len(change.added),
        "back": len(change.revived),
        "retired": len(change.retired),
        "forgotten": planned.num_forgotten,
        "moved": len(change.left),
    }
    did = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    head = f"version {after.version}: items {did or 'unchanged'}{left_out}; "
    return head + _sizes(after) + _without_vectors(planned)


def _without_vectors(planned: "PlannedChange") -> str:
    """Says where new items went that have neither a vector nor similar items."""
    clusters = planned.clusters_without_vectors().tolist()
    if not clusters:
        return ""
    distinct = sorted(set(clusters))
    shown = ", ".join(map(str, distinct[:5])) + (", …" if len(distinct) > 5 else "")
    return (
        f"\n{len(clusters):,} new items have neither --vectors nor similar items: they "
        "went where most places are free, to cluster"
        f"{'s' if len(distinct) > 1 else ''} {shown}"
    )


def _sizes(catalog: "Catalog") -> str:
    num_slots = catalog.num_clusters * catalog.cluster_size
    free = num_slots - len(catalog.items)
    empty = int((catalog.sizes == 0).sum())
    return (
        f"{catalog.num_clusters:,} clusters of {catalog.cluster_size:,} places "
        f"({empty:,} empty), {free:,} places free ({free / num_slots:.1%})"
    )


def _versions(dataset: "Dataset") -> list[str]:
    """Says what each version changed, and what the present one holds."""
    from eqids.data.catalog.revise import catalog_of

    catalog, lineage = catalog_of(dataset), dataset.lineage
    lines = [f"version 1: {len(lineage.valid):,} clusters"]
    for version, change in enumerate(lineage.changes, start=2):
        lines.append(
            f"version {version}: {change.num_clusters:,} clusters; {len(change.added)} "
            f"items added, {len(change.revived)} back, {len(change.retired)} retired, "
            f"{len(change.left)} moved"
        )
    retired = int(catalog.retired.sum())
    full = int((catalog.sizes == catalog.cluster_size).sum())
    lines.append(
        f"{len(catalog.items):,} items, {retired:,} of them retired; "
        f"{_sizes(catalog)}, {full:,} clusters full"
    )
    if dataset.info.texts is not None:
        lines.append(f"texts     {dataset.info.texts.template!r}")
    lines.append(f"catalog   {dataset.info.catalog_id}")
    return lines


def _metrics(results: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """Returns a table of validation metrics, seen items filtered, a row for each."""
    yield f"{'valid, filtered':<18}{'users':>8}{'NDCG@10':>10}{'Recall@10':>11}"
    for name, result in results.items():
        if result is None:
            yield f"{name:<18}{'-':>8}{'-':>10}{'-':>11}"
            continue
        filtered = result["filtered"]
        yield (
            f"{name:<18}{result['num_users']:>8,}{filtered['ndcg@10']:>10.4f}"
            f"{filtered['recall@10']:>11.4f}"
        )


if __name__ == "__main__":
    run_as_process(main)
