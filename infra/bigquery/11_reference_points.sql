-- The reference file read: places as numbers, which line repeats another, which place is outside the service area.
-- role: train
--
-- Exact duplicates are lines with the same four texts. FLOAT64 could not be partitioned by. One unreadable line may be
-- the header.
CREATE OR REPLACE TABLE ${dataset}.reference_points AS
WITH texts AS (
  SELECT
    TRIM(TRIM(date), '"') AS date,
    TRIM(TRIM(lat), '"') AS lat,
    TRIM(TRIM(lon), '"') AS lon,
    TRIM(TRIM(base), '"') AS base
  FROM ${dataset}.reference_raw
),
points AS (
  SELECT
    date,
    SAFE_CAST(lat AS FLOAT64) AS latitude,
    SAFE_CAST(lon AS FLOAT64) AS longitude,
    base,
    ROW_NUMBER() OVER (PARTITION BY date, lat, lon, base) AS copy
  FROM texts
)
SELECT
  *,
  latitude IS NOT NULL AND longitude IS NOT NULL AS is_readable,
  COALESCE(latitude BETWEEN ${south} AND ${north} AND longitude BETWEEN ${west} AND ${east}, FALSE) AS is_in_area
FROM points;

ASSERT (SELECT COUNTIF(NOT is_readable) <= 1 + 0.1 * COUNT(*) FROM ${dataset}.reference_points)
AS 'More than a tenth of the lines of gs://${bucket}/reference/uber-split2.csv are unreadable: `make bqml` shows the first. The columns must be date, latitude, longitude, base, separated by commas, in UTF-8.';
