"""Measure EqIDs beside its peers: `python -m bench {head,topk,checkpoint}`."""

import importlib
from collections.abc import Mapping, Sequence

import tyro

from bench.machine import pin, use_huge_pages
from bench.options import CheckpointOptions, HeadOptions, Options, TopkOptions
from bench.plot import check_plotting, save
from eqids.door import run

DESCRIPTION = """Measure EqIDs beside its peers, in one run, on this machine.

    python -m bench head --quick
    python -m bench head --json head.json --plot head.png
    python -m bench topk --checkpoint runs/mine
    python -m bench checkpoint --size 2 --folder /scratch

Peers that are not installed are left out, and said so: pip install 'eqids[peers]'.
"""

SECTIONS: Mapping[str, type[Options]] = {
    "head": HeadOptions,
    "topk": TopkOptions,
    "checkpoint": CheckpointOptions,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures one section, prints its table, and writes what was asked for."""
    options = tyro.extras.subcommand_cli_from_dict(
        dict(SECTIONS),
        prog="python -m bench",
        description=DESCRIPTION,
        args=argv,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    name = next(name for name, kind in SECTIONS.items() if type(options) is kind)
    if options.plot is not None:
        check_plotting()
    # Before jax is imported, which starts a thread for each core it sees.
    pin(options.cores)
    if options.huge_pages:
        use_huge_pages()
    from bench.report import result, table
    from eqids.fit.runs import write_json

    section = importlib.import_module(f"bench.{name}").measure(options)
    print(table(section))
    if options.json is not None:
        write_json(options.json, result(section, options))
        print(f"written to {options.json}")
    if options.plot is not None:
        save(section.curve, options.plot)
        print(f"drawn into {options.plot}")


if __name__ == "__main__":
    run(main)
