-- What the model learns from: pick-ups in the service area, each once. One far point would become a separate cluster.
-- role: train
CREATE OR REPLACE TABLE ${dataset}.reference_uber AS
SELECT longitude, latitude
FROM ${dataset}.reference_points
WHERE is_readable AND is_in_area AND copy = 1;
