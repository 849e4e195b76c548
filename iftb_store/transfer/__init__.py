"""Transfers between stores: copy, compare, verify, back up, restore."""
