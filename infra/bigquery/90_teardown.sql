-- Remove what the steps above made, then the dataset if nothing else is in it. The bucket stays as it is.
-- role: teardown
DROP MODEL IF EXISTS ${dataset}.kmeans_scan;
DROP MODEL IF EXISTS ${dataset}.kmeans8;
DROP TABLE IF EXISTS ${dataset}.revenue_by_hour;
DROP TABLE IF EXISTS ${dataset}.revenue_by_zone;
DROP TABLE IF EXISTS ${dataset}.ride_zones;
DROP TABLE IF EXISTS ${dataset}.zones;
DROP TABLE IF EXISTS ${dataset}.landmarks;
DROP TABLE IF EXISTS ${dataset}.reference_uber;
DROP TABLE IF EXISTS ${dataset}.reference_points;
DROP TABLE IF EXISTS ${dataset}.reference_raw;
DROP TABLE IF EXISTS ${dataset}.rides_processed;
DROP VIEW IF EXISTS ${dataset}.rides_distinct;
DROP EXTERNAL TABLE IF EXISTS ${dataset}.rides_processed_ext;
DROP SCHEMA IF EXISTS `${project}.${dataset}`;
