"""Benchmarks of speed and memory against named peers; ``python -m benchmarks [PART …]`` runs them."""
