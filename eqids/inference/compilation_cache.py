"""Lets compiled programs outlive the process."""

import os

import jax
from jax.experimental.compilation_cache import compilation_cache

from eqids.config import UserError
from eqids.io.cache_folder import cache_folder

_SECONDS = "jax_persistent_cache_min_compile_time_secs"
_LEAST_SECONDS = 0.1
"""Programs that compile faster are not kept."""


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs in a folder `programs` of the cache.

    A folder that the user chose ($JAX_COMPILATION_CACHE_DIR) is used instead. Nothing
    is kept if there is no folder that can be written to.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = cache_folder() / "programs"
    except UserError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if _SECONDS.upper() not in os.environ:
        jax.config.update(_SECONDS, _LEAST_SECONDS)
    # Otherwise a process that has compiled something goes on without a cache.
    compilation_cache.reset_cache()
