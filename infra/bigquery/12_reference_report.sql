-- What the reference file holds: a header counts as a line that cannot be read.
-- role: look
SELECT
  COUNT(*) AS line_count,
  COUNTIF(NOT is_readable) AS unreadable,
  COUNTIF(is_readable AND copy > 1) AS duplicates,
  COUNTIF(is_readable AND copy = 1 AND NOT is_in_area) AS outside,
  COUNTIF(is_readable AND copy = 1 AND is_in_area) AS used,
  COUNTIF(base = 'GENERATED') AS made_up
FROM ${dataset}.reference_points;
