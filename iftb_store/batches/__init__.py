"""Many rows at once: bars, and Arrow tables."""
