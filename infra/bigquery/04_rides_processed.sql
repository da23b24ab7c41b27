-- The native table: a query of one day reads that day's partition only, one of a comfort mostly that comfort's blocks.
-- role: setup
CREATE TABLE IF NOT EXISTS ${dataset}.rides_processed (
  ride_id STRING NOT NULL,
  ts TIMESTAMP NOT NULL,
  agent_timestamp TIMESTAMP NOT NULL,
  comfort STRING NOT NULL,
  origin_lat FLOAT64 NOT NULL,
  origin_lon FLOAT64 NOT NULL,
  destination_lat FLOAT64 NOT NULL,
  destination_lon FLOAT64 NOT NULL,
  duration_min FLOAT64 NOT NULL,
  price_base FLOAT64 NOT NULL,
  price_per_km FLOAT64 NOT NULL,
  price_per_min FLOAT64 NOT NULL,
  distance_km FLOAT64 NOT NULL,
  price_total FLOAT64 NOT NULL,
  kafka_partition INT64 NOT NULL,
  kafka_offset INT64 NOT NULL
)
PARTITION BY DATE(ts)
CLUSTER BY comfort
OPTIONS (description = 'Rides, each once, filled by MERGE from rides_distinct');
