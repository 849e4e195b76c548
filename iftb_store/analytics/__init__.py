"""Computes figures, e.g. trade statistics, from rows or totals; needs no session."""
