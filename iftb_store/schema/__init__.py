"""The database schema: the tables, their columns and their revision."""
