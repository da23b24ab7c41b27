-- Would another number of zones fit better? Once for each k; the smallest cluster tells what the index does not.
-- role: scan
-- repeat: k = 4..12
CREATE OR REPLACE MODEL ${dataset}.kmeans_scan
OPTIONS (
  MODEL_TYPE = 'KMEANS',
  NUM_CLUSTERS = ${k},
  KMEANS_INIT_METHOD = 'KMEANS++',
  STANDARDIZE_FEATURES = TRUE,
  DISTANCE_TYPE = 'EUCLIDEAN'
) AS
SELECT longitude, latitude FROM ${dataset}.reference_uber;

SELECT ${k} AS k, e.davies_bouldin_index, e.mean_squared_distance, s.smallest, s.largest
FROM ML.EVALUATE(MODEL ${dataset}.kmeans_scan) AS e
CROSS JOIN (
  SELECT MIN(n) AS smallest, MAX(n) AS largest
  FROM (
    SELECT CENTROID_ID, COUNT(*) AS n
    FROM ML.PREDICT(MODEL ${dataset}.kmeans_scan, (SELECT longitude, latitude FROM ${dataset}.reference_uber))
    GROUP BY 1
  )
) AS s;
