"""Recommends by the exported model beside it: python loader.py 50,181,172 --k 5"""

import argparse
import hashlib
import json
from datetime import date
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors import deserialize


class ExportedModel:
    def __init__(self, folder: Path):
        m, data = json.loads((folder / "manifest.json").read_bytes()), {}
        if str(date.today()) > m["expires"] and jax.__version__ != m["jax"]["jax"]:
            raise ValueError(f"it expired on {m['expires']}, wanted {m['instead']}")
        for name, sha256 in m["files"].items():
            data[name] = (folder / Path(name).name).read_bytes()
            if (
                name != Path(name).name
                or sha256 != hashlib.sha256(data[name]).hexdigest()
            ):
                raise ValueError(
                    f"{name} is not the file of that SHA-256, export again"
                )
        self.manifest, self.items = m, json.loads(data["items.json"])
        self.slot_of = {row[0]: slot for slot, row in enumerate(self.items) if row}
        self.programs, self.weights = {}, {}
        for p in m["programs"]:
            call = export.deserialize(bytearray(data[p["file"]])).call
            self.programs[p["rows"], p["length"]] = jax.jit(call)
        for name, x in deserialize(data["weights.safetensors"]):
            flat = np.frombuffer(
                x["data"], jax.numpy.dtype(m["weights"][name]["dtype"])
            )
            self.weights[name] = jax.device_put(flat.reshape(x["shape"]))

    def recommend(self, history: list[str], k: int) -> list[tuple[str, str, float]]:
        """Returns ids, titles and probabilities of the most probable next items."""
        m, unknown = self.manifest, sorted({*history} - self.slot_of.keys())
        if unknown or not history or not 1 <= k <= m["k"]:
            raise ValueError(f"unknown items {unknown}, k {k}, wanted k 1 to {m['k']}")
        slots = [self.slot_of[item] for item in history]
        ends = np.cumsum([1 + len(self.items[slot][2]) for slot in slots[::-1]])
        first = -(
            -int(np.sum(ends + len(m["prompt"]) > m["seq_len"])) // m["window_step"]
        )
        items, tokens = [-1] * len(m["prompt"]), [*m["prompt"]]
        for slot in slots[min(first * m["window_step"], len(slots) - 1) :]:
            tokens += [0, *self.items[slot][2]]
            items += [slot, *[-1] * (len(tokens) - len(items) - 1)]
        rows, length = min(size for size in self.programs if size[1] >= len(items))
        size = {"rows": rows, "length": length, "slots": len(self.items)}
        x = {n: np.full([size[axis] for axis in i["shape"]], i["fill"], i["dtype"])
             for n, i in m["inputs"].items()}  # fmt: skip
        for name in x.keys() & {"items", "tokens"}:
            x[name][:, : len(items)] = items if name == "items" else tokens
        x["last"][:], x["allowed"][:, slots] = len(items) - 1, False
        found, log_probs = jax.device_get(self.programs[rows, length](self.weights, x))
        best = zip(found[0, :k].tolist(), np.exp(log_probs[0]).tolist(), strict=False)
        return [(*self.items[slot][:2], p) for slot, p in best if slot >= 0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", help="ids of a history, oldest first, by commas")
    parser.add_argument("--k", type=int, default=10, help="number of items")
    args, here = parser.parse_args(), Path(__file__).parent
    try:
        answer = ExportedModel(here).recommend(args.items.split(","), args.k)
        print(*(f"{item}\t{title}\t{p:.6f}" for item, title, p in answer), sep="\n")
    except (OSError, LookupError, TypeError, ValueError) as error:
        parser.error(f"{here}/manifest.json: {error}")
