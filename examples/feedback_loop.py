"""Serving, collecting events, and training on with them.

    pip install -e '.[serve]'
    python examples/feedback_loop.py [OUT]

The server answers from a checkpoint and stores events. The next dataset is the served
one with these events, and the next run continues the served one.
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from listening_data import listening

import eqids

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out") / "feedback_loop"
plays, tracks = listening(num_listeners=100, num_tracks=60)
monday = eqids.prepare(
    plays,
    out / "monday",
    items=tracks,
    user_column="listener",
    item_column="track",
    time_column="played_at",
    title_column="name",
    overwrite=True,
)
run = eqids.train(monday, out / "run", num_steps=100, eval_every=50)

server = subprocess.Popen(
    [sys.executable, "-m", "eqids.serve", "--checkpoint", run.checkpoint_dir]
    + ["--events", out / "served.sqlite", "--port", "0", "--max_batch", "4"]
    + ["--max_k", "10"],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    for line in server.stdout:  # the server says when it is ready, and where
        print(line, end="")
        if "http://" in line:
            address = line[line.index("http://") :].split()[0].rstrip(",;")
            break

    def post(path: str, body: dict) -> dict:
        sent = urllib.request.Request(address + path, json.dumps(body).encode())
        with urllib.request.urlopen(sent) as answer:
            return json.load(answer)

    first = post("/v1/recommend", {"history": [20], "k": 3})
    print("after one track:", [item["title"] for item in first["items"]])
    now = int(time.time())
    events = [
        {"user": "a new listener", "item": 20 + n, "time": now + n} for n in range(5)
    ]
    print(post("/v1/events", {"events": events}))
    # From now on this is the listener's history, also after a restart.
    after = post("/v1/recommend", {"user": "a new listener", "k": 3})
    print("after five tracks:", [item["title"] for item in after["items"]])
finally:
    server.terminate()
    server.wait()

tuesday = eqids.prepare(
    f"events:{out / 'served.sqlite'}", out / "tuesday", overwrite=True, report=print
)
print(f"{monday.info.num_users} users became {tuesday.info.num_users}")
run = eqids.train(
    tuesday, out / "run-tuesday", continue_from=run.checkpoint_dir, more_steps=20
)
print(eqids.load(run.checkpoint_dir).recommend([[20, 21, 22]], k=3))
