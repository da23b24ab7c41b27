-- The reference file as it is: four columns of text.
-- role: train
--
-- It circulates with the header `date,lat,lon,ID`, with `Date/Time,Lat,Lon,Base` and without any. So every line is
-- loaded, headers too, and the next step tells them apart: a header's latitude is no number. Quotes are part of the
-- text, so that an unbalanced one costs its own line only; the next step removes them.
LOAD DATA OVERWRITE ${dataset}.reference_raw (date STRING, lat STRING, lon STRING, base STRING)
FROM FILES (
  format = 'CSV',
  uris = ['gs://${bucket}/reference/uber-split2.csv'],
  skip_leading_rows = 0,
  quote = '',
  allow_jagged_rows = TRUE,
  ignore_unknown_values = TRUE
);
