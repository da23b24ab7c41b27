-- What each zone and comfort brought in: the figures that all of this is for.
-- role: look
SELECT cluster_id, label, comfort, revenue, n, n_outside
FROM ${dataset}.revenue_by_zone
ORDER BY revenue DESC;
