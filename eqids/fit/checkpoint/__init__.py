"""Checkpoints: whole or not there, exact, restored onto any mesh. Knows no model."""

from eqids.fit.checkpoint.leaves import leaf_name as leaf_name
from eqids.fit.checkpoint.lock import LOCK as LOCK
from eqids.fit.checkpoint.manifest import (
    DamageError as DamageError,
    Manifest as Manifest,
    read_manifest as read_manifest,
)
from eqids.fit.checkpoint.recovery import (
    damaged as damaged,
    recover as recover,
    restore_sound as restore_sound,
)
from eqids.fit.checkpoint.retention import (
    Retention as Retention,
    best_step as best_step,
    latest_step as latest_step,
    partials as partials,
    prune as prune,
    resolve as resolve,
    steps as steps,
)
from eqids.fit.checkpoint.saver import Saver as Saver, save as save
from eqids.fit.checkpoint.step import restore as restore, verify as verify
