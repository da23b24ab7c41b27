# Mails the address. It stops nothing, and counts the whole account.
resource "aws_budgets_budget" "month" {
  count = var.alarm_email == "" ? 0 : 1

  name         = "datastream-serverless"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.budget_amount)
  limit_unit   = "USD"

  dynamic "notification" {
    for_each = [50, 90, 100]
    content {
      notification_type          = "ACTUAL"
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [var.alarm_email]
    }
  }

  notification {
    notification_type          = "FORECASTED"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.alarm_email]
  }
}
