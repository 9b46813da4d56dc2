"""Runs every section of the bench as its own command, and joins the results."""

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.options import AllOptions
from bench.sections import SectionEntry

_SHARED = ("machine", "versions", "commit")


def measure_all(
    options: AllOptions, sections: Mapping[str, SectionEntry]
) -> tuple[dict[str, Any], list[str]]:
    """Returns one key for each section, and the flags of each under `config`.

    Each section is a process of its own, because each pins itself to other cores. The
    machine is described as the last section found it.

    Args:
        options: for all of them.
        sections: the sections by name.

    Returns:
        The results, and the names of sections that ended with an error, which they
        have printed.
    """
    whole: dict[str, Any] = {"config": {}}
    failed = list[str]()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, entry in sections.items():
            path = Path(folder) / f"{name}.json"
            flags = ["--json", str(path), "--seed", str(options.seed)]
            if options.quick:
                flags.append("--quick")
            fields = {field.name for field in dataclasses.fields(entry.options)}
            if options.data_dir is not None and "data_dir" in fields:
                flags += ["--data_dir", str(options.data_dir)]
            print(f"\n== python -m bench {name}", flush=True)
            done = subprocess.run([sys.executable, "-m", "bench", name, *flags])
            if done.returncode == 128 + signal.SIGINT:
                raise KeyboardInterrupt
            if done.returncode != 0:
                failed.append(name)
                continue
            found = json.loads(path.read_text(encoding="utf-8"))
            whole[name] = found[name]
            whole["config"][name] = found["config"]
            whole |= {key: found[key] for key in _SHARED}
    return whole, failed
