data "google_project" "this" {
  count = var.billing_account == "" ? 0 : 1

  project_id = var.project_id
  depends_on = [google_project_service.this]
}

# Mails the billing account's administrators. It stops nothing: docs/gcp.md says what does.
resource "google_billing_budget" "month" {
  count    = var.billing_account == "" ? 0 : 1
  provider = google.billing

  billing_account = var.billing_account
  display_name    = "Datastream in ${var.project_id}"

  budget_filter {
    projects        = ["projects/${data.google_project.this[0].number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      units = tostring(var.budget_amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  depends_on = [google_project_service.this]
}
