"""Tables as files: Parquet, Feather, CSV and JSON lines, written and read back exactly, and what other tools leave."""
