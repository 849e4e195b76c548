"""The PostgreSQL backend behind Debian's PgBouncer, which ``nox -s pgbouncer`` alone runs."""
