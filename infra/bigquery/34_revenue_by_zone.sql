-- Revenue and rides by cluster and comfort, as a table: reading it costs next to nothing.
-- role: score
CREATE OR REPLACE TABLE ${dataset}.revenue_by_zone AS
SELECT
  cluster_id,
  comfort,
  SUM(price_total) AS revenue,
  COUNT(*) AS n,
  ANY_VALUE(label) AS label,
  COUNTIF(is_outside) AS n_outside
FROM ${dataset}.ride_zones
GROUP BY 1, 2
ORDER BY revenue DESC;
