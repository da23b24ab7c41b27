-- Roles. Their rights are in 30_rights.sql; infra/postgres/__init__.py sets the passwords.
do $$
declare
    name text;
begin
    foreach name in array array['warehouse_owner', 'bi_reader'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
    foreach name in array array[
        'shop_loader', 'dbt', 'shop_reader', 'data_engineer', 'shop_monitor', 'grafana_ro', 'superset_ro', 'superset',
        'shop_forecast', 'shop_backup'
    ] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I login', name);
        end if;
    end loop;
end
$$;

-- Ledger, report and dashboards only read.
alter role shop_reader connection limit 10;
alter role shop_reader set default_transaction_read_only = on;
alter role shop_reader set statement_timeout = '60s';

-- Dashboards.
alter role grafana_ro connection limit 10;
alter role grafana_ro set default_transaction_read_only = on;
alter role grafana_ro set statement_timeout = '30s';
alter role superset_ro connection limit 20; -- one for each thread of Superset
alter role superset_ro set default_transaction_read_only = on;
alter role superset_ro set statement_timeout = '30s';

-- pg_dump reads every table.
alter role shop_backup connection limit 3;
grant pg_read_all_data to shop_backup;

-- warehouse-exporter reads statistics, no rows.
alter role shop_monitor connection limit 5;
grant pg_monitor to shop_monitor;
