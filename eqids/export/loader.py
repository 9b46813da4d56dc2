"""Recommends by the exported model beside it: python loader.py 50,181,172 --k 5"""

import argparse
import hashlib
import json
from datetime import date
from pathlib import Path

import jax
import numpy as np
from jax import export, numpy as jnp
from safetensors import deserialize


class ExportedModel:
    def __init__(self, folder: Path):
        """Raises OSError, KeyError or ValueError if a file is not what was exported."""
        m, data = json.loads((folder / "manifest.json").read_bytes()), {}
        if str(date.today()) > m["expires"] and jax.__version__ != m["jax"]["jax"]:
            raise ValueError(f"it expired on {m['expires']}, wanted {m['instead']}")
        for name, sha256 in dict(m["files"]).items():
            data[name] = (folder / Path(name).name).read_bytes()
            found = Path(name).name, hashlib.sha256(data[name]).hexdigest()
            if found != (name, sha256):
                raise ValueError(f"{name} is not the file that was exported")
        self.m, self.items = m, json.loads(data["items.json"])
        self.slot_of = {row[0]: slot for slot, row in enumerate(self.items) if row}
        self.programs, self.weights = {}, {}
        for p in m["programs"]:
            call = export.deserialize(bytearray(data[p["file"]])).call
            self.programs[p["rows"], p["length"]] = jax.jit(call)
        for name, x in deserialize(data["weights.safetensors"]):
            dtype = jnp.dtype(m["weights"][name]["dtype"])
            self.weights[name] = jnp.frombuffer(x["data"], dtype).reshape(x["shape"])

    def recommend(self, history: list[str], k: int) -> list[tuple[str, str, float]]:
        """Returns ids, titles and probabilities of the most probable next items."""
        m, unknown = self.m, sorted({*history} - self.slot_of.keys())
        if unknown or not history or not 1 <= k <= m["k"]:
            raise ValueError(f"unknown items {unknown}, k {k}, wanted k 1 to {m['k']}")
        slots = [self.slot_of[item] for item in history]
        begin, most, step = m["prompt"], m["seq_len"], m["window_step"]
        ends = np.cumsum([1 + len(self.items[slot][2]) for slot in slots[::-1]])
        first = -(-int(np.sum(ends + len(begin) > most)) // step) * step
        items, tokens = [-1] * len(begin), [*begin]
        for slot in slots[min(first, len(slots) - 1) :]:
            tokens += [0, *self.items[slot][2]]
            items += [slot, *[-1] * (len(tokens) - len(items) - 1)]
        rows, length = min(size for size in self.programs if size[1] >= len(items))
        size = {"rows": rows, "length": length, "slots": len(self.items)}
        x = {n: np.full([size[a] for a in v["shape"]], v["fill"], v["dtype"])
             for n, v in m["inputs"].items()}  # fmt: skip
        for name in x.keys() & {"items", "tokens"}:
            x[name][:, : len(items)] = items if name == "items" else tokens
        x["last"][:], x["allowed"][:, slots] = len(items) - 1, False
        found, log_probs = jax.device_get(self.programs[rows, length](self.weights, x))
        best = [*zip(found[0].tolist(), np.exp(log_probs[0]).tolist(), strict=True)]
        return [(*self.items[slot][:2], p) for slot, p in best[:k] if slot >= 0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", help="ids of a history, oldest first, by commas")
    parser.add_argument("--k", type=int, default=10, help="number of items")
    args, here = parser.parse_args(), Path(__file__).parent
    try:
        best = ExportedModel(here).recommend(args.items.split(","), args.k)
        print(*(f"{item}\t{title}\t{p:.6f}" for item, title, p in best), sep="\n")
    except (OSError, LookupError, TypeError, ValueError) as error:
        parser.error(f"{here}/manifest.json: {error}")
