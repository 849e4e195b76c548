class SQLiteBackend: pass
