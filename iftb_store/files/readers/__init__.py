"""Files read into rows, a reader for each format."""
