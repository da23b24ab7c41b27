-- How tight and how far apart the clusters are. Never read this without the next steps' sizes.
-- role: look
SELECT davies_bouldin_index, mean_squared_distance
FROM ML.EVALUATE(MODEL ${dataset}.kmeans8);
