"""Recommends by the exported graph beside it: python onnx_loader.py 50,181,172 --k 5"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime

WEIGHTS, MOST = "weights.safetensors", 2**24
EXTERNAL = b"\n\x08location\x12\x13" + WEIGHTS.encode()  # as a graph names its weights


class OnnxRecommender:
    def __init__(self, folder: Path, provider: str = "CPUExecutionProvider"):
        """Raises an error if a file is not what was exported; reads no other file."""
        with (folder / "manifest.json").open("rb") as file:
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"it is larger than {MOST} bytes")
        m = self.m = json.loads(text)
        for name, sha256 in dict(m["files"]).items():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{name} is outside of {folder}")
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise ValueError(f"{name} is not the file that was exported")
        beside = m["graph"].removesuffix("model.onnx") + WEIGHTS
        if missing := {m["graph"], beside, "items.json"} - m["files"].keys():
            raise ValueError(f"it names no {', '.join(sorted(missing))}")
        graph = (folder / m["graph"]).read_bytes()
        if graph.count(b"location") != graph.count(EXTERNAL):
            raise ValueError(f"{m['graph']} names another file than {WEIGHTS}")
        self.items = json.loads((folder / "items.json").read_bytes())
        self.slot_of = {row[0]: slot for slot, row in enumerate(self.items) if row}
        path = str(folder / m["graph"])
        self.session = onnxruntime.InferenceSession(path, providers=[provider])

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
        size = {"rows": 1, "length": len(items), "masks": 1, "excluded": len(slots)}
        size["slots"] = len(self.items)
        x = {n: np.full([size[a] for a in v["shape"]], v["fill"], v["dtype"])
             for n, v in m["inputs"].items()}  # fmt: skip
        for name in x.keys() & {"items", "tokens"}:
            x[name][0] = items if name == "items" else tokens
        x["last"][0], x["exclude"][0] = len(items) - 1, slots
        found, log_probs = self.session.run(["slots", "log_probs"], x)
        best = [*zip(found[0].tolist(), np.exp(log_probs[0]).tolist(), strict=True)]
        return [(*self.items[slot][:2], p) for slot, p in best[:k] if slot >= 0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", help="ids of a history, oldest first, by commas")
    parser.add_argument("--k", type=int, default=10, help="number of items")
    args, here = parser.parse_args(), Path(__file__).parent
    try:
        best = OnnxRecommender(here).recommend(args.items.split(","), args.k)
        print(*(f"{item}\t{title}\t{p:.6f}" for item, title, p in best), sep="\n")
    except Exception as error:  # onnxruntime's are of no common type
        parser.error(f"{here}/manifest.json: {str(error).splitlines()[0]}")
