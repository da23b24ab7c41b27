locals {
  # One spelling of each folder, without slashes around it.
  prefix  = trim(var.gcs_prefix, "/")
  staging = trim(var.staging_prefix, "/")

  services = toset(concat(
    [
      "bigquery.googleapis.com",
      "cloudresourcemanager.googleapis.com", # roles on the project
      "iam.googleapis.com",
      "iamcredentials.googleapis.com", # acting as the service account without a key
      "storage.googleapis.com",
    ],
    var.create_key ? ["secretmanager.googleapis.com"] : [],
    var.billing_account == "" ? [] : ["billingbudgets.googleapis.com"],
  ))
}

resource "google_project_service" "this" {
  for_each = local.services

  project = var.project_id
  service = each.value
  # Others in the project may use it too.
  disable_on_destroy = false
}
