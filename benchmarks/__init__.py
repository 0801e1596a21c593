"""Measurements of the whole (``python -m benchmarks``) and of its pieces (``pytest benchmarks --benchmark-enable``)."""
