"""Measurements that the documentation quotes: `python -m benchmarks`, or one of its modules."""
