"""The PostgreSQL backend behind Debian's PgBouncer, which only ``nox -s pgbouncer`` runs."""
