"""Faults to survive: each is a test on the real engine, with few rounds in the normal suite and many in `nox -s soak`."""
