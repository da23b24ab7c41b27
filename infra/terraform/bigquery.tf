locals {
  columns = jsondecode(file("${path.module}/rides_schema.json"))
}

resource "google_bigquery_dataset" "rides" {
  project     = var.project_id
  dataset_id  = var.dataset_id
  location    = var.location
  description = "Rides from Parquet, KMeans zones and revenue"
  labels      = var.labels
  # Off, terraform destroy stops at a dataset that holds what the playbook made.
  delete_contents_on_destroy = var.force_destroy

  depends_on = [google_project_service.this]
}

# The Parquet objects where they are. Its schema is given, not detected: there may be no object yet to detect it from.
resource "google_bigquery_table" "external" {
  count = var.external_table ? 1 : 0

  project     = var.project_id
  dataset_id  = google_bigquery_dataset.rides.dataset_id
  table_id    = "rides_processed_ext"
  description = "Rides as PutGCP wrote them; a ride sent twice is here twice"
  labels      = var.labels
  # Not protected: it holds no data.
  deletion_protection = false

  external_data_configuration {
    source_format = "PARQUET"
    source_uris   = ["gs://${google_storage_bucket.rides.name}/${local.prefix}/*.parquet"]
    autodetect    = false
    # No REQUIRED columns: BigQuery does not check what it does not keep.
    schema = jsonencode([for column in local.columns : merge(column, { mode = "NULLABLE" })])
  }

  # infra/bigquery/02_rides_processed_ext.sql replaces it, with the columns of the files. Either is right.
  lifecycle {
    ignore_changes = [description, external_data_configuration, labels, schema]
  }
}

resource "google_bigquery_table" "native" {
  project     = var.project_id
  dataset_id  = google_bigquery_dataset.rides.dataset_id
  table_id    = "rides_processed"
  description = "Rides, each once, filled by MERGE from rides_distinct"
  labels      = var.labels
  schema      = jsonencode(local.columns)
  clustering  = ["comfort"]
  # Protected: loaded rides may outlive their objects. Say false and apply before a destroy.
  deletion_protection = var.deletion_protection

  time_partitioning {
    type  = "DAY"
    field = "ts"
  }
}
