# terraform init && terraform test: plans with a provider that asks nobody. Needs Terraform 1.7, no account and no login.
mock_provider "aws" {}

run "defaults" {
  command = plan

  assert {
    condition     = aws_lambda_function.consumer.runtime == "python3.13" && aws_lambda_function.consumer.environment[0].variables["PARTIAL_BATCH"] == "true"
    error_message = "The function must report the records that failed, because the mapping reads its answer."
  }
  assert {
    condition     = aws_lambda_event_source_mapping.stream.function_response_types == toset(["ReportBatchItemFailures"]) && aws_lambda_event_source_mapping.stream.bisect_batch_on_function_error
    error_message = "The mapping would not read the function's answer."
  }
  assert {
    condition     = alltrue([for table in [aws_dynamodb_table.latest, aws_dynamodb_table.history, aws_dynamodb_table.rejects] : table.deletion_protection_enabled && table.point_in_time_recovery[0].enabled])
    error_message = "A table may be lost by accident."
  }
  assert {
    condition     = length(aws_sns_topic.alarms) == 0 && length(aws_budgets_budget.month) == 0 && length(aws_iam_role_policy_attachment.producer) == 0
    error_message = "Something was made that nobody asked for."
  }
  assert {
    condition     = output.env == <<-EOT
      AWS_EMULATOR=none
      AWS_DEFAULT_REGION=us-east-1
    EOT
    error_message = "The lines for .env are wrong."
  }
}

run "everything_on" {
  command = plan

  variables {
    region                 = "eu-west-3"
    alarm_email            = "ada@example.com"
    producer_roles         = ["my-producer"]
    stream_retention_hours = 168
    deletion_protection    = false
  }

  assert {
    condition     = length(aws_sns_topic_subscription.alarms) == 1 && length(aws_budgets_budget.month[0].notification) == 4
    error_message = "An alert is missing."
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.producer) == 1
    error_message = "The producer's role has no rights."
  }
}

run "wrong_values" {
  command = plan

  variables {
    region                 = "Paris"
    tags                   = { "aws:app" = "datastream" }
    stream_retention_hours = 12
    log_retention_days     = 31
    producer_roles         = ["arn:aws:iam::123456789012:role/my-producer"]
    alarm_email            = "mine"
    budget_amount          = 0
  }

  expect_failures = [
    var.region,
    var.tags,
    var.stream_retention_hours,
    var.log_retention_days,
    var.producer_roles,
    var.alarm_email,
    var.budget_amount,
  ]
}
