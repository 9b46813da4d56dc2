"""Files for every package: SHA-256 digests, and files that are written atomically."""
