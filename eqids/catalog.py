"""Change a catalog: `python -m eqids.catalog {add,retire,grow,rebalance,…}`."""

from collections.abc import Sequence

from eqids.cli import parse_command, run
from eqids.cli.commands import COMMANDS

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


def main(argv: Sequence[str] | None = None) -> None:
    """Changes a catalog, migrates a checkpoint, and says what became of both."""
    command = COMMANDS["eqids.catalog"]
    config = parse_command(command.kinds, argv, "eqids.catalog", DESCRIPTION)
    from eqids.migrate.catalog_changes import change_catalog

    change_catalog(config)


if __name__ == "__main__":
    run(main)
