"""Networks written here: the demo's, the benchmarks', and those that users bring."""
