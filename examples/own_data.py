"""From a CSV file of your own to recommendations, with the commands.

    python examples/own_data.py [OUT]

It writes two CSV files, and runs the commands that you would type.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from listening_data import listening

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out") / "own_data"
out.mkdir(parents=True, exist_ok=True)

plays, tracks = listening()
plays.to_csv(out / "plays.csv", index=False)
tracks.to_csv(out / "tracks.csv", index=False)

COMMANDS = f"""
python -m eqids.prepare --source csv:{out}/plays.csv --data_dir {out}/data --overwrite
    --user_column listener --item_column track --time_column played_at
    --items {out}/tracks.csv --title_column name
python -m eqids.train --data_dir {out}/data --checkpoint_dir {out}/run --num_steps 200
    --eval_every 100
python -m eqids.recommend --checkpoint {out}/run --history 100,101,102 --k 3
"""

for command in COMMANDS.strip().replace("\n    ", " ").splitlines():
    print(f"$ {command}", flush=True)
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
