"""Files for every package: SHA-256 digests, atomic writes, and arrays as caches."""
