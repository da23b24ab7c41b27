-- Dump the database and write its manifest from one snapshot. For psql; backup.sh gives the names of the files.
\set ON_ERROR_STOP on
\getenv manifest BACKUP_MANIFEST

-- Locked before the snapshot: a table that dbt replaces between snapshot and dump would be empty in the dump.
select coalesce('lock table ' || string_agg(format('%I.%I', nspname, relname), ', ') || ' in access share mode', 'select')
    as lock_tables
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind in ('r', 'p') and nspname !~ '^pg_' and nspname <> 'information_schema'
\gset

begin isolation level repeatable read read only;
set local lock_timeout = '60s';
:lock_tables;
select pg_export_snapshot() as snapshot, statement_timestamp() at time zone 'UTC' as snapshot_at,
    exists (
        select from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where relkind in ('r', 'p') and nspname !~ '^pg_' and nspname <> 'information_schema' and pg_class.oid not in (
            select relation from pg_locks where pid = pg_backend_pid() and locktype = 'relation'
        )
    ) as is_changed
\gset
\if :is_changed
do $$ begin raise exception 'a table was replaced before the snapshot'; end $$;
\endif

-- Whoever waits for our locks blocks pg_dump: it gives up, and backup.sh tries again.
\setenv BACKUP_SNAPSHOT :snapshot
\! exec pg_dump --no-password --format=custom --snapshot="$BACKUP_SNAPSHOT" --lock-wait-timeout=2s --file="$BACKUP_DUMP"
\if :SHELL_ERROR
do $$ begin raise exception 'pg_dump failed'; end $$;
\endif

\o :manifest
\ir manifest.sql
select 'backup', 'tables', count(*)
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind = 'r' and nspname !~ '^pg_' and nspname <> 'information_schema';
select 'backup', 'snapshot_at', :'snapshot_at' || 'Z';
\o
commit;
