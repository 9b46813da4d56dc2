"""Files for every package: digests, parallel reads, atomic writes, arrays as caches."""
