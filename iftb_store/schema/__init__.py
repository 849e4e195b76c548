"""The tables, their columns and their revision."""
