-- New rides into the native table. The same rides again change nothing.
-- role: score
--
-- The source holds each ride_id once: of two rows for one key MERGE would insert both, and fail the next time.
MERGE ${dataset}.rides_processed AS t
USING ${dataset}.rides_distinct AS s
ON t.ride_id = s.ride_id
WHEN MATCHED AND s.kafka_offset > t.kafka_offset THEN UPDATE SET
  ts = s.ts,
  agent_timestamp = s.agent_timestamp,
  comfort = s.comfort,
  origin_lat = s.origin_lat,
  origin_lon = s.origin_lon,
  destination_lat = s.destination_lat,
  destination_lon = s.destination_lon,
  duration_min = s.duration_min,
  price_base = s.price_base,
  price_per_km = s.price_per_km,
  price_per_min = s.price_per_min,
  distance_km = s.distance_km,
  price_total = s.price_total,
  kafka_partition = s.kafka_partition,
  kafka_offset = s.kafka_offset
WHEN NOT MATCHED THEN INSERT (
  ride_id, ts, agent_timestamp, comfort, origin_lat, origin_lon, destination_lat, destination_lon, duration_min,
  price_base, price_per_km, price_per_min, distance_km, price_total, kafka_partition, kafka_offset
) VALUES (
  s.ride_id, s.ts, s.agent_timestamp, s.comfort, s.origin_lat, s.origin_lon, s.destination_lat, s.destination_lon,
  s.duration_min, s.price_base, s.price_per_km, s.price_per_min, s.distance_km, s.price_total, s.kafka_partition,
  s.kafka_offset
);
