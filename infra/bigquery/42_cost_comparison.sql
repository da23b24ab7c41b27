-- The same question at four prices: external or native, all days or today. Compare the bytes of a dry run.
-- role: look
SELECT 'external, all' AS source, COUNT(*) AS n, SUM(price_total) AS revenue
FROM ${dataset}.rides_processed_ext;

SELECT 'external, today by _FILE_NAME' AS source, COUNT(*) AS n, SUM(price_total) AS revenue
FROM ${dataset}.rides_processed_ext
WHERE _FILE_NAME LIKE CONCAT('gs://${bucket}/${prefix}', FORMAT_DATE('%Y/%m/%d', CURRENT_DATE()), '/%');

SELECT 'native, all' AS source, COUNT(*) AS n, SUM(price_total) AS revenue
FROM ${dataset}.rides_processed;

SELECT 'native, today by partition' AS source, COUNT(*) AS n, SUM(price_total) AS revenue
FROM ${dataset}.rides_processed
WHERE DATE(ts) = CURRENT_DATE();
