resource "google_storage_bucket" "rides" {
  project  = var.project_id
  name     = var.bucket_name
  location = var.location
  labels   = var.labels

  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Off, terraform destroy stops at a bucket that holds objects.
  force_destroy = var.force_destroy

  # An object's name determines its content: a replay writes the same bytes again, and every version would be a copy.
  # Soft delete covers what is deleted by mistake.
  versioning {
    enabled = false
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 24 * 60 * 60
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      # Not topic-ids/, which tells a topic that was made again from the one before.
      age            = var.staging_delete_after_days
      matches_prefix = ["${local.staging}/dag_"]
    }
  }

  # What an upload that broke off left behind.
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.rides_nearline_after_days == 0 ? [] : [var.rides_nearline_after_days]
    content {
      action {
        type          = "SetStorageClass"
        storage_class = "NEARLINE"
      }
      condition {
        age                   = lifecycle_rule.value
        matches_prefix        = ["${local.prefix}/"]
        matches_storage_class = ["STANDARD"]
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.rides_delete_after_days == 0 ? [] : [var.rides_delete_after_days]
    content {
      action {
        type = "Delete"
      }
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["${local.prefix}/"]
      }
    }
  }

  lifecycle {
    precondition {
      condition     = !startswith("${local.staging}/", "${local.prefix}/") && !startswith("${local.prefix}/", "${local.staging}/")
      error_message = "staging_prefix and gcs_prefix must not lie in each other: an asterisk of BigQuery's spans folders."
    }
  }

  depends_on = [google_project_service.this]
}
