"""Batches of rows to read or write: bars as objects, and rows as Arrow tables."""
