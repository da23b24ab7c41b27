-- Each ride with the zone it starts in. ML.PREDICT passes all columns through: nothing is joined back on coordinates.
-- role: score
CREATE OR REPLACE TABLE ${dataset}.ride_zones
PARTITION BY DATE(ts)
CLUSTER BY comfort
AS
SELECT
  p.* EXCEPT (CENTROID_ID, NEAREST_CENTROIDS_DISTANCE),
  p.CENTROID_ID AS cluster_id,
  z.label,
  p.distance > z.radius AS is_outside
FROM (
  SELECT *, (SELECT MIN(nearest.DISTANCE) FROM UNNEST(NEAREST_CENTROIDS_DISTANCE) AS nearest) AS distance
  FROM ML.PREDICT(
    MODEL ${dataset}.kmeans8,
    (SELECT *, origin_lon AS longitude, origin_lat AS latitude FROM ${dataset}.rides_processed)
  )
) AS p
JOIN ${dataset}.zones AS z ON z.centroid_id = p.CENTROID_ID;
