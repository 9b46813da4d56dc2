"""Files for every package: digests, and names that appear when they are whole."""
