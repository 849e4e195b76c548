"""Import and export: writes tables as Parquet, Feather, CSV or JSON lines, and reads these and other tools' files exactly."""
