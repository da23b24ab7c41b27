-- Rights: everything is taken back first, so that this file is the whole list.
revoke all on schema public from public;
revoke all on database data_warehouse from public;
revoke connect on database postgres, template1 from public;
revoke all on all tables in schema raw from shop_loader, dbt, shop_reader, data_engineer, shop_monitor, bi_reader,
    grafana_ro, superset_ro, superset, shop_forecast, shop_backup;

grant connect on database data_warehouse to shop_loader, dbt, shop_reader, data_engineer, shop_monitor, grafana_ro,
    superset_ro, shop_forecast, shop_backup;
-- Both copy into a temporary table first.
grant temporary on database data_warehouse to shop_loader, dbt;

grant usage on schema raw to shop_loader, dbt, shop_reader, data_engineer;
grant select, insert on raw.transactions_raw, raw.clients, raw.produits to shop_loader;
grant update (statut, updated_at, ingested_at, kafka_partition, kafka_offset) on raw.transactions_raw to shop_loader;
grant select, insert, update on raw.load_offsets to shop_loader;
grant select, insert on raw.load_refusals, raw.load_batches to shop_loader;
grant select, insert on raw.flights, raw.weather, raw.flights_objects to shop_loader;
grant select on all tables in schema raw to dbt, shop_reader, data_engineer;
-- Not ingested_at: dbt reads on from the newest one.
grant insert (transaction_id, client_id, produit_id, montant, date, statut, updated_at) on raw.transactions_raw
    to data_engineer;

-- dbt grants SELECT on each table; this covers what it makes without a grant, such as failed rows of tests.
grant usage on schema marts, ops, dbt_test_failures to bi_reader;
grant select on all tables in schema marts, ops, dbt_test_failures to bi_reader;
alter default privileges for role dbt in schema marts, ops, dbt_test_failures grant select on tables to bi_reader;
grant bi_reader to shop_reader, data_engineer, grafana_ro, superset_ro;

grant usage on schema marts to shop_forecast;
grant select on all tables in schema marts to shop_forecast;
alter default privileges for role dbt in schema marts grant select on tables to shop_forecast;
grant insert, delete on marts.revenue_forecast, marts.revenue_forecast_evaluation to shop_forecast;
grant insert on ops.backups to shop_backup;
