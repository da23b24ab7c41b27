-- Go on only if at most half of the rides are outside the trained area: rides of another city all fall into edge zones.
-- role: score
ASSERT (SELECT COUNTIF(is_outside) <= 0.5 * COUNT(*) FROM ${dataset}.ride_zones)
AS 'More than half of the rides start outside the area that kmeans8 was trained on: they are of another city. Send rides of the reference file\'s city, or put a file of theirs at gs://${bucket}/reference/uber-split2.csv, set SERVICE_AREA to its area and train again.';
