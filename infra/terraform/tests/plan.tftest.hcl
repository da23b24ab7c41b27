# terraform init && terraform test: plans with a provider that asks nobody. Needs Terraform 1.7, no project and no login.
mock_provider "google" {}

mock_provider "google" {
  alias = "billing"
}

variables {
  project_id  = "my-project-123456"
  bucket_name = "my-project-123456-datastream"
}

run "defaults" {
  command = plan

  assert {
    condition     = google_storage_bucket.rides.location == google_bigquery_dataset.rides.location
    error_message = "BigQuery reads a bucket only from where the dataset is."
  }
  assert {
    condition     = google_storage_bucket.rides.uniform_bucket_level_access && google_storage_bucket.rides.public_access_prevention == "enforced"
    error_message = "The bucket is not closed."
  }
  assert {
    condition     = length(google_service_account_key.datastream) == 0 && length(google_secret_manager_secret.key) == 0 && output.key_secret == null
    error_message = "A key was made that nobody asked for."
  }
  assert {
    condition     = length(google_billing_budget.month) == 0 && !contains(keys(google_project_service.this), "billingbudgets.googleapis.com")
    error_message = "There is a budget without a billing account."
  }
  assert {
    condition     = length(google_storage_bucket.rides.lifecycle_rule) == 2
    error_message = "Rides are moved or deleted without being told to."
  }
  assert {
    condition     = google_bigquery_table.native.deletion_protection && !google_storage_bucket.rides.force_destroy
    error_message = "Data may be deleted by accident."
  }
}

run "lines_for_env" {
  command = plan

  variables {
    gcs_prefix = "/rides/processed"
  }

  assert {
    condition     = output.env == <<-EOT
      GCS_BUCKET=my-project-123456-datastream
      GCS_PREFIX=rides/processed/
      GOOGLE_APPLICATION_CREDENTIALS=./datastream-sa-key.json
      BIGQUERY_PROJECT=my-project-123456
      BIGQUERY_DATASET=rides
      BIGQUERY_LOCATION=EU
    EOT
    error_message = "The lines for .env are wrong."
  }
  assert {
    condition     = output.reference_uri == "gs://my-project-123456-datastream/reference/uber-split2.csv"
    error_message = "The reference file belongs elsewhere."
  }
}

run "everything_on" {
  command = plan

  # A key is not known before it is made, and the mock's would not be in Base64.
  override_resource {
    target = google_service_account_key.datastream
    values = { private_key = "e30=" }
  }
  override_data {
    target = data.google_project.this
    values = { number = "123456789012" }
  }

  variables {
    create_key                = true
    billing_account           = "012345-6789AB-CDEF01"
    impersonators             = ["user:ada@example.com"]
    workload_identities       = ["serviceAccount:my-project-123456.svc.id.goog[airflow/worker]"]
    rides_nearline_after_days = 30
    rides_delete_after_days   = 400
    soft_delete_days          = 0
    location                  = "europe-west9"
  }

  assert {
    condition     = length(google_storage_bucket.rides.lifecycle_rule) == 4
    error_message = "A lifecycle rule is missing."
  }
  assert {
    condition     = google_secret_manager_secret.key[0].secret_id == "datastream-sa-key" && output.key_secret == "datastream-sa-key"
    error_message = "The key is not in Secret Manager."
  }
  assert {
    condition     = length(google_billing_budget.month[0].threshold_rules) == 4
    error_message = "A threshold of the budget is missing."
  }
  assert {
    condition     = google_storage_bucket.rides.soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "Deleted objects are kept."
  }
}

run "external_table_left_to_sql" {
  command = plan

  assert {
    condition     = length(google_bigquery_table.external) == 0 && google_bigquery_table.native.table_id == "rides_processed"
    error_message = "external_table = false must leave out that table only."
  }
}

run "external_table" {
  command = plan

  variables {
    external_table = true
  }

  assert {
    condition     = google_bigquery_table.external[0].external_data_configuration[0].source_uris == tolist(["gs://my-project-123456-datastream/rides/processed/*.parquet"])
    error_message = "The external table reads other objects than the stack writes."
  }
}

run "folders_in_each_other" {
  command = plan

  variables {
    staging_prefix = "rides/processed/staging"
  }

  expect_failures = [google_storage_bucket.rides]
}

run "wrong_values" {
  command = plan

  variables {
    project_id                = "My Project"
    location                  = "Europe"
    labels                    = { App = "datastream" }
    bucket_name               = "a.b"
    gcs_prefix                = "/"
    staging_prefix            = "a/*"
    staging_delete_after_days = 7
    rides_nearline_after_days = -1
    rides_delete_after_days   = 0.5
    soft_delete_days          = 3
    dataset_id                = "my-rides"
    service_account_id        = "sa"
    impersonators             = ["ada@example.com"]
    workload_identities       = ["airflow/worker"]
    billing_account           = "mine"
    budget_amount             = 0
  }

  expect_failures = [
    var.project_id,
    var.location,
    var.labels,
    var.bucket_name,
    var.gcs_prefix,
    var.staging_prefix,
    var.staging_delete_after_days,
    var.rides_nearline_after_days,
    var.rides_delete_after_days,
    var.soft_delete_days,
    var.dataset_id,
    var.service_account_id,
    var.impersonators,
    var.workload_identities,
    var.billing_account,
    var.budget_amount,
  ]
}
