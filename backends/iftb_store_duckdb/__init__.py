class DuckDBBackend: pass
