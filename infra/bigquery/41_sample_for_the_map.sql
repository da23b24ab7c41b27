-- Rides to draw the zones with. A ride_id is random, so the first thousands of them are a fair sample, always the same.
-- role: look
SELECT longitude, latitude, cluster_id
FROM ${dataset}.ride_zones
WHERE NOT is_outside
ORDER BY ride_id
LIMIT 3000;
