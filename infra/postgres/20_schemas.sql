-- The database, its schemas, and the tables that are not dbt's.
alter database data_warehouse owner to warehouse_owner;
-- `transactions_raw` without a schema is raw.transactions_raw.
alter database data_warehouse set search_path = raw, public;

create schema if not exists raw authorization warehouse_owner;
create schema if not exists staging authorization dbt;
create schema if not exists marts authorization dbt;
create schema if not exists snapshots authorization dbt;
create schema if not exists dbt_test_failures authorization dbt;
create schema if not exists ops authorization dbt;

set local role warehouse_owner;

-- One row per transaction, as it came in. The two Kafka columns are null for rows that came straight in.
-- clock_timestamp() and not now(): the start of a long load may be older than the last row that dbt has seen.
create table if not exists raw.transactions_raw (
    transaction_id text primary key,
    client_id integer not null,
    produit_id integer not null,
    montant numeric(12, 2) not null check (montant <> 'NaN'),
    date timestamptz not null,
    statut text not null,
    updated_at timestamptz not null default clock_timestamp(),
    ingested_at timestamptz not null default clock_timestamp(),
    kafka_partition integer,
    kafka_offset bigint
);
create index if not exists transactions_raw_ingested_at on raw.transactions_raw using brin (ingested_at);

create table if not exists raw.clients (
    client_id integer primary key,
    nom text not null,
    ville text not null,
    inscrit_le date not null
);

create table if not exists raw.produits (
    produit_id integer primary key,
    nom text not null,
    categorie text not null,
    prix numeric(12, 2) not null
);

-- What is loaded: every message of a partition before next_offset. Kafka gives a recreated topic another id.
create table if not exists raw.load_offsets (
    topic text,
    partition integer,
    next_offset bigint not null,
    topic_id text not null,
    primary key (topic, partition)
);

-- Messages that are not in transactions_raw, and why; rows that came straight in have no topic.
create table if not exists raw.load_refusals (
    topic text,
    partition integer,
    "offset" bigint,
    reason text not null,
    detail text not null,
    refused_at timestamptz not null default clock_timestamp(),
    unique (topic, partition, "offset"),
    check (num_nulls(topic, partition, "offset") in (0, 3))
);

-- What each load did with its rows. `topic` is null for rows that came straight in.
create table if not exists raw.load_batches (
    batch_id bigint generated always as identity primary key,
    loaded_at timestamptz not null default clock_timestamp(),
    topic text,
    rows bigint not null,
    inserted bigint not null,
    updated bigint not null,
    repeated bigint not null,
    stale bigint not null,
    refused bigint not null,
    check (rows = inserted + updated + repeated + stale + refused)
);

-- Clean rows of the flights (jobs/flights/clean.py), and the Parquet objects that they came from.
create table if not exists raw.flights (
    event_id text not null,
    ts timestamptz not null,
    flight_id text not null,
    airline text not null,
    number text not null,
    marketing_number text,
    flight_date text not null,
    departure_airport text not null,
    arrival_airport text not null,
    status text not null,
    scheduled_departure timestamptz not null,
    estimated_departure timestamptz,
    actual_departure timestamptz,
    scheduled_arrival timestamptz not null,
    estimated_arrival timestamptz,
    actual_arrival timestamptz,
    departure_delay_min double precision,
    arrival_delay_min double precision,
    source text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    loaded_at timestamptz not null default clock_timestamp()
);

create table if not exists raw.weather (
    event_id text not null,
    ts timestamptz not null,
    place_id text not null,
    lat double precision not null,
    lon double precision not null,
    temperature_c double precision not null,
    feels_like_c double precision,
    pressure_hpa double precision,
    humidity_pct double precision,
    visibility_m double precision,
    wind_speed_ms double precision,
    wind_deg double precision,
    wind_gust_ms double precision,
    clouds_pct double precision,
    rain_1h_mm double precision,
    snow_1h_mm double precision,
    condition text,
    description text,
    air_observed_at timestamptz,
    aqi integer,
    pm2_5 double precision,
    pm10 double precision,
    no2 double precision,
    o3 double precision,
    source text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    loaded_at timestamptz not null default clock_timestamp()
);
create table if not exists raw.flights_objects (
    name text primary key,
    rows bigint not null,
    loaded_at timestamptz not null default clock_timestamp()
);

set local role dbt;

-- What dbt did with each node in each run. Airflow writes it.
create table if not exists ops.dbt_results (
    invocation_id text,
    unique_id text,
    command text not null,
    run_id text not null,
    status text not null,
    failures bigint,
    execution_time_s double precision not null,
    message text,
    finished_at timestamptz not null,
    relation text,
    primary key (invocation_id, unique_id)
);
-- Warehouses of earlier versions lack it. Rows that fail a test are in this table.
alter table ops.dbt_results add column if not exists relation text;

-- Each finished backup. infra/postgres/backup/backup.sh writes it.
create table if not exists ops.backups (
    file text primary key,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    bytes bigint not null,
    rows bigint not null
);

-- The newest forecast of the revenue, and how earlier days would have been forecast. jobs/shop/forecast.py replaces both.
create table if not exists marts.revenue_forecast (
    day date primary key,
    predicted numeric(14, 2) not null,
    -- The interval held 80 % of the evaluated forecasts.
    lower numeric(14, 2) not null,
    upper numeric(14, 2) not null,
    -- The revenue of the same weekday in the last known week.
    baseline numeric(14, 2) not null,
    trained_until date not null,
    trained_at timestamptz not null,
    -- PostgreSQL sorts NaN above all numbers.
    check (0 <= lower and lower <= predicted and predicted <= upper and upper < 'NaN' and baseline < 'NaN')
);
create table if not exists marts.revenue_forecast_evaluation (
    trained_until date,
    day date,
    actual numeric(14, 2) not null,
    predicted numeric(14, 2) not null,
    baseline numeric(14, 2) not null,
    primary key (trained_until, day),
    check (trained_until < day and actual < 'NaN' and predicted < 'NaN' and baseline < 'NaN')
);

reset role;
