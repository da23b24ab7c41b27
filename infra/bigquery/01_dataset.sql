-- The dataset that holds everything below. Bucket and dataset must be in the same location.
-- role: dataset
CREATE SCHEMA IF NOT EXISTS `${project}.${dataset}`
OPTIONS (
  location = '${location}',
  description = 'Rides: what PutGCP wrote to Cloud Storage, their zones and their revenue',
  labels = [('app', 'datastream')]
);
