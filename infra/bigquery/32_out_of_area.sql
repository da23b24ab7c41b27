-- Rides outside the trained area: farther from their centroid than any reference point of that zone.
-- role: look
SELECT
  cluster_id,
  label,
  COUNT(*) AS rides,
  COUNTIF(is_outside) AS outside,
  MAX(distance) AS farthest,
  SUM(IF(is_outside, price_total, 0)) AS revenue_outside
FROM ${dataset}.ride_zones
GROUP BY 1, 2
ORDER BY outside DESC, cluster_id;
