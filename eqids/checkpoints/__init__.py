"""Checkpoints of any PyTree of arrays: atomic, exact to the bit, for any mesh.

A save uses, in this order:

    snapshot.py     copies the arrays to host memory, so that training can go on
    store.py        writes their chunks with tensorstore, and hashes every chunk
    multiprocess.py collects the records of what each process has written
    manifest.py     describes the folder: `manifest.json`, guarded by its SHA-256
    step_folder.py  syncs `.STEP.partial` and renames it to `STEP`
    retention.py    then deletes the steps that need not be kept

`saver.py` runs these in a background thread; `lock.py` allows one run per folder. A
restore uses `restore_plan.py`, which says which part of which array each device needs,
and `reader.py`, which reads it and compares every chunk with its digest. `recovery.py`
sets damaged steps aside and restores an older one. `listing.py` has the values that
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
