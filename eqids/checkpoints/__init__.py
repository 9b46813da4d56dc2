"""Checkpoints of any PyTree of arrays: atomic, exact to the bit, for any mesh.

How a save travels:

    snapshot.py     copies the arrays to host memory, so that training can go on
    store.py        writes their chunks with tensorstore, and hashes every chunk
    multiprocess.py collects what the processes of a run have written
    manifest.py     describes it: `manifest.json`, guarded by its SHA-256
    step_folder.py  syncs `.STEP.partial` and renames it to `STEP`
    retention.py    then deletes the steps that need not be kept

`saver.py` runs these in a background thread; `lock.py` allows one run per folder.
The way back: `restore_plan.py` says which part of which array each device needs,
`reader.py` reads it and compares every chunk with its SHA-256, and `recovery.py`
sets damaged steps aside and takes an older one. `listing.py` is what the command
`python -m eqids.checkpoint` shows.
"""

from eqids.checkpoints.leaves import leaf_name as leaf_name
from eqids.checkpoints.lock import LOCK as LOCK
from eqids.checkpoints.manifest import (
    DamageError as DamageError,
    Manifest as Manifest,
    read_manifest as read_manifest,
)
from eqids.checkpoints.recovery import (
    recover as recover,
    restore_sound as restore_sound,
)
from eqids.checkpoints.retention import (
    Retention as Retention,
    best_step as best_step,
    damaged as damaged,
    latest_step as latest_step,
    partials as partials,
    prune as prune,
    resolve as resolve,
    steps as steps,
)
from eqids.checkpoints.saver import Saver as Saver, save as save
from eqids.checkpoints.step_folder import restore as restore, verify as verify
