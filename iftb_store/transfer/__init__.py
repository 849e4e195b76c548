"""Store to store: copy, compare, verify, back up, restore."""
