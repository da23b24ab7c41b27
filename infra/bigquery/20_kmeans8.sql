-- The model: eight zones by k-means on longitude and latitude.
-- role: train
--
-- The options after NUM_CLUSTERS are said aloud because the first one is not the default. Centroid ids change at each
-- training: see 25_zones.sql.
CREATE OR REPLACE MODEL ${dataset}.kmeans8
OPTIONS (
  MODEL_TYPE = 'KMEANS',
  NUM_CLUSTERS = 8,
  KMEANS_INIT_METHOD = 'KMEANS++',
  STANDARDIZE_FEATURES = TRUE,
  DISTANCE_TYPE = 'EUCLIDEAN'
) AS
SELECT longitude, latitude FROM ${dataset}.reference_uber;
