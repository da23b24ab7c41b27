-- Zones for people: what each centroid id of this training means, how many reference points it has, how far it reaches.
-- role: train
--
-- Ids change at each training, so nothing but this table may know them. A zone's radius is the distance of its farthest
-- reference point, in the unit of NEAREST_CENTROIDS_DISTANCE: a ride beyond it is outside the trained area. Two zones
-- near one landmark are told apart by a number; one with no landmark within 25 km is called by its place.
CREATE OR REPLACE TABLE ${dataset}.zones AS
WITH centroids AS (
  SELECT
    centroid_id,
    MAX(IF(feature = 'longitude', numerical_value, NULL)) AS longitude,
    MAX(IF(feature = 'latitude', numerical_value, NULL)) AS latitude
  FROM ML.CENTROIDS(MODEL ${dataset}.kmeans8)
  GROUP BY 1
),
members AS (
  SELECT
    CENTROID_ID AS centroid_id,
    (SELECT MIN(nearest.DISTANCE) FROM UNNEST(NEAREST_CENTROIDS_DISTANCE) AS nearest) AS distance
  FROM ML.PREDICT(MODEL ${dataset}.kmeans8, (SELECT longitude, latitude FROM ${dataset}.reference_uber))
),
sizes AS (
  SELECT centroid_id, COUNT(*) AS reference_points, MAX(distance) AS radius
  FROM members
  GROUP BY 1
),
distances AS (
  SELECT
    c.centroid_id,
    l.name,
    -- km on a sphere, near enough for the length of a city
    111.195 * SQRT(
      POW(l.latitude - c.latitude, 2)
      + POW((l.longitude - c.longitude) * COS(c.latitude * ACOS(-1) / 180), 2)
    ) AS km
  FROM centroids AS c
  CROSS JOIN ${dataset}.landmarks AS l
),
nearest_landmark AS (
  SELECT centroid_id, name, km
  FROM distances
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY centroid_id ORDER BY km) = 1
),
numbered AS (
  SELECT centroid_id, name, km, ROW_NUMBER() OVER (PARTITION BY name ORDER BY km) AS position
  FROM nearest_landmark
)
SELECT
  c.centroid_id,
  CASE
    WHEN n.km > 25 THEN CONCAT(CAST(ROUND(c.latitude, 3) AS STRING), ', ', CAST(ROUND(c.longitude, 3) AS STRING))
    WHEN n.position = 1 THEN n.name
    ELSE CONCAT(n.name, ' ', CAST(n.position AS STRING))
  END AS label,
  c.longitude,
  c.latitude,
  s.reference_points,
  s.radius
FROM centroids AS c
JOIN sizes AS s ON s.centroid_id = c.centroid_id
JOIN numbered AS n ON n.centroid_id = c.centroid_id;
