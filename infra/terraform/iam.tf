resource "google_service_account" "datastream" {
  project      = var.project_id
  account_id   = var.service_account_id
  display_name = "Datastream"
  description  = "Writes rides to gs://${var.bucket_name} and reads them with BigQuery"

  depends_on = [google_project_service.this]
}

# Exactly what the stack does with objects. The predefined roles/storage.objectUser may also change metadata and manage
# folders, and lacks storage.buckets.get, which BigQuery wants for an external table and the stack for its first check.
resource "google_project_iam_custom_role" "objects" {
  project     = var.project_id
  role_id     = "datastreamObjects"
  title       = "Datastream objects"
  description = "Create, read, list and delete objects of a bucket, and look at the bucket"
  permissions = [
    "storage.buckets.get",
    "storage.objects.create",
    "storage.objects.delete", # writing over an object deletes the old one, and a replay writes over
    "storage.objects.get",
    "storage.objects.list",
  ]

  depends_on = [google_project_service.this]
}

# On this bucket, on no other.
resource "google_storage_bucket_iam_member" "objects" {
  bucket = google_storage_bucket.rides.name
  role   = google_project_iam_custom_role.objects.name
  member = google_service_account.datastream.member
}

# On this dataset: tables, views and models, not the dataset's own access list.
resource "google_bigquery_dataset_iam_member" "editor" {
  project    = var.project_id
  dataset_id = google_bigquery_dataset.rides.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.datastream.member
}

# A job belongs to a project, so this role cannot be given on less. It opens no table.
resource "google_project_iam_member" "jobs" {
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.datastream.member
}

resource "google_service_account_iam_member" "impersonator" {
  for_each = var.impersonators

  service_account_id = google_service_account.datastream.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

resource "google_service_account_iam_member" "workload" {
  for_each = var.workload_identities

  service_account_id = google_service_account.datastream.name
  role               = "roles/iam.workloadIdentityUser"
  member             = each.value
}

# --- A key, only if asked for -----------------------------------------------------------------------------------------
resource "google_service_account_key" "datastream" {
  count = var.create_key ? 1 : 0

  service_account_id = google_service_account.datastream.name
}

resource "google_secret_manager_secret" "key" {
  count = var.create_key ? 1 : 0

  project   = var.project_id
  secret_id = "${var.service_account_id}-key"
  labels    = var.labels

  replication {
    auto {}
  }

  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_version" "key" {
  count = var.create_key ? 1 : 0

  secret      = google_secret_manager_secret.key[0].id
  secret_data = base64decode(google_service_account_key.datastream[0].private_key)
}
