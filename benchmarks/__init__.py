"""Benchmarks: one command each; tables go to docs/benchmarks.md (see benchmarks/README.md)."""
