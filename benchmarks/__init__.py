"""Speed and memory against named peers: ``python -m benchmarks`` (or one part by name)."""
