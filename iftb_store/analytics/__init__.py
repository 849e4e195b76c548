"""From rows to figures; no session."""
