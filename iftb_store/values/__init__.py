"""One value: checked, normalised, displayed."""
