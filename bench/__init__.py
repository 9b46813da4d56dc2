"""Stopwatches, peers and tables; imported by no other package."""
