class PostgresBackend: pass
