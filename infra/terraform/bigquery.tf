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

# The Parquet objects where they are. With a schema given, it can be made before the first object is there.
resource "google_bigquery_table" "external" {
  project     = var.project_id
  dataset_id  = google_bigquery_dataset.rides.dataset_id
  table_id    = "rides_processed_ext"
  description = "Every Parquet object of the rides, read in place"
  labels      = var.labels
  # Not protected: it holds no data.
  deletion_protection = false

  external_data_configuration {
    source_format = "PARQUET"
    source_uris   = ["gs://${google_storage_bucket.rides.name}/${local.prefix}/*"]
    autodetect    = false
    # No REQUIRED columns: BigQuery does not check what it does not keep.
    schema = jsonencode([for column in local.columns : merge(column, { mode = "NULLABLE" })])
  }
}

resource "google_bigquery_table" "native" {
  project     = var.project_id
  dataset_id  = google_bigquery_dataset.rides.dataset_id
  table_id    = "rides_processed"
  description = "Each ride once, loaded from the Parquet objects"
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
