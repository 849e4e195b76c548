"""Databases of every past revision of the schema, as the code of their day wrote them, and the rows that they hold."""
