-- Where the clusters' centres are, in degrees: one line for each feature.
-- role: look
SELECT centroid_id, feature, numerical_value
FROM ML.CENTROIDS(MODEL ${dataset}.kmeans8)
ORDER BY centroid_id, feature;
