"""Checkpoints: whole or not there, exact, restored onto any mesh. Knows no model."""

from eqids.checkpoints.leaves import leaf_name as leaf_name
from eqids.checkpoints.lock import LOCK as LOCK
from eqids.checkpoints.manifest import (
    DamageError as DamageError,
    Manifest as Manifest,
    read_manifest as read_manifest,
)
from eqids.checkpoints.recovery import (
    damaged as damaged,
    recover as recover,
    restore_sound as restore_sound,
)
from eqids.checkpoints.retention import (
    Retention as Retention,
    best_step as best_step,
    latest_step as latest_step,
    partials as partials,
    prune as prune,
    resolve as resolve,
    steps as steps,
)
from eqids.checkpoints.saver import Saver as Saver, save as save
from eqids.checkpoints.step_folder import restore as restore, verify as verify
