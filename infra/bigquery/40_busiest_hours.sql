-- The hours with the highest revenue.
-- role: look
SELECT hour, SUM(revenue) AS revenue, SUM(n) AS n
FROM ${dataset}.revenue_by_hour
GROUP BY 1
ORDER BY revenue DESC, hour
LIMIT 10;
