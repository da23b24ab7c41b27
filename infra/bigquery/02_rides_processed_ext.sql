-- The Parquet objects of PutGCP as an external table; its columns are those of the files.
-- role: setup
--
-- The path is plain (YYYY/MM/DD/HH), so there are no partition columns: only _FILE_NAME tells what to leave out.
-- The `*` spans folders: every object under the prefix whose name ends in .parquet must hold rides.
CREATE OR REPLACE EXTERNAL TABLE ${dataset}.rides_processed_ext
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://${bucket}/${prefix}*.parquet'],
  description = 'Rides as PutGCP wrote them; a ride sent twice is here twice'
);
