output "env" {
  description = "Lines for .env: terraform output -raw env"
  value       = <<-EOT
    GCS_BUCKET=${google_storage_bucket.rides.name}
    GCS_PREFIX=${local.prefix}/
    GOOGLE_APPLICATION_CREDENTIALS=./datastream-sa-key.json
    BIGQUERY_PROJECT=${var.project_id}
    BIGQUERY_DATASET=${google_bigquery_dataset.rides.dataset_id}
    BIGQUERY_LOCATION=${google_bigquery_dataset.rides.location}
  EOT
}

output "staging_url" {
  description = "STAGING_URL for workers on several machines. On one machine leave it out: staged chunks need no bucket."
  value       = "gs://${google_storage_bucket.rides.name}/${local.staging}"
}

output "reference_uri" {
  description = "Where the reference file of KMeans belongs."
  value       = "gs://${google_storage_bucket.rides.name}/reference/uber-split2.csv"
}

output "service_account" {
  description = "Address of the service account."
  value       = google_service_account.datastream.email
}

output "key_secret" {
  description = "Secret with the key, or null: no key was made."
  value       = one(google_secret_manager_secret.key[*].secret_id)
}
