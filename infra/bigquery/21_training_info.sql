-- How the training went, iteration by iteration.
-- role: look
SELECT iteration, loss, duration_ms
FROM ML.TRAINING_INFO(MODEL ${dataset}.kmeans8)
ORDER BY iteration;
