"""Batches of rows: bars and Arrow tables."""
