-- Each ride once: the one view that stands under every query.
-- role: setup
--
-- Of a ride sent twice the last message counts, as in Elasticsearch.
CREATE OR REPLACE VIEW ${dataset}.rides_distinct
OPTIONS (description = 'Rides, each once: of several messages with one ride_id the one with the highest offset')
AS
SELECT *
FROM ${dataset}.rides_processed_ext
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY ride_id ORDER BY kafka_offset DESC, kafka_partition DESC) = 1;
