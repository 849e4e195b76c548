"""Maintenance of a store that grows; the functions are exported by `iftb_store` itself."""
