-- The reference file read: places as numbers, which line repeats another, which place is outside the service area.
-- role: train
--
-- Exact duplicates are lines with the same four texts. FLOAT64 could not be partitioned by.
CREATE OR REPLACE TABLE ${dataset}.reference_points AS
SELECT
  *,
  latitude IS NOT NULL AND longitude IS NOT NULL AS is_readable,
  COALESCE(latitude BETWEEN ${south} AND ${north} AND longitude BETWEEN ${west} AND ${east}, FALSE) AS is_in_area
FROM (
  SELECT
    TRIM(date) AS date,
    SAFE_CAST(TRIM(lat) AS FLOAT64) AS latitude,
    SAFE_CAST(TRIM(lon) AS FLOAT64) AS longitude,
    TRIM(base) AS base,
    ROW_NUMBER() OVER (PARTITION BY TRIM(date), TRIM(lat), TRIM(lon), TRIM(base)) AS copy
  FROM ${dataset}.reference_raw
);
