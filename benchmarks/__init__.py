"""iftb-store beside the raw drivers, the naive ORM path and its peers: `python -m benchmarks`, or `nox -s bench`."""
