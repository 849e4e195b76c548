"""Functions that check, normalise and display single values."""
