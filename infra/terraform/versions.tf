terraform {
  required_version = ">= 1.5"

  required_providers {
    google = {
      source = "hashicorp/google"
      # The current major (8.0.0 is of August 2026). Majors may remove arguments; minors may not.
      version = "~> 8.0"
    }
  }

  # State is kept in this folder. For more than one person, use a separate bucket with versioning.
  # backend "gcs" {
  #   bucket = "my-terraform-state"
  #   prefix = "datastream"
  # }
}

provider "google" {
  project = var.project_id
}

# The Budgets API wants to know which project's quota it uses when a person signs in with gcloud.
provider "google" {
  alias                 = "billing"
  project               = var.project_id
  billing_project       = var.project_id
  user_project_override = true
}
