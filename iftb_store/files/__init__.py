"""Exports tables to Parquet, Feather, CSV or JSON lines, and imports these formats and the files of other tools without loss."""
