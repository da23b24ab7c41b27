-- Revenue and rides by hour (UTC) and cluster.
-- role: score
CREATE OR REPLACE TABLE ${dataset}.revenue_by_hour AS
SELECT
  TIMESTAMP_TRUNC(ts, HOUR) AS hour,
  cluster_id,
  SUM(price_total) AS revenue,
  COUNT(*) AS n,
  ANY_VALUE(label) AS label
FROM ${dataset}.ride_zones
GROUP BY 1, 2
ORDER BY hour, revenue DESC;
