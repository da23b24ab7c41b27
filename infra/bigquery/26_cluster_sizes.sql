-- How many reference points each zone has. A handful in one of them means outliers, whatever the evaluation says.
-- role: look
SELECT
  centroid_id,
  label,
  latitude,
  longitude,
  reference_points,
  reference_points / SUM(reference_points) OVER () AS share,
  radius
FROM ${dataset}.zones
ORDER BY reference_points DESC, centroid_id;
