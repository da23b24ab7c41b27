# The names are those of jobs/serverless/vertical.py.
locals {
  stream   = "weather_stream"
  function = "kinesis_to_dynamo"
  latest   = "dataflow_mongo"
  history  = "dataflow_history"
  rejects  = "dataflow_rejects"
  failed   = "dataflow-failed"

  consumer = "${path.module}/../../../jobs/serverless/lambda_consumer.py"
}

# --- Stream -----------------------------------------------------------------------------------------------------------
resource "aws_kinesis_stream" "weather" {
  name             = local.stream
  retention_period = var.stream_retention_hours
  encryption_type  = "KMS"
  kms_key_id       = "alias/aws/kinesis" # its key policy lets who may use the stream use the key

  stream_mode_details {
    stream_mode = "ON_DEMAND"
  }
}

# --- Tables -----------------------------------------------------------------------------------------------------------
# The newest observation of each city.
resource "aws_dynamodb_table" "latest" {
  name                        = local.latest
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "ville"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "ville"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}

# Every observation, for 30 days.
resource "aws_dynamodb_table" "history" {
  name                        = local.history
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "ville"
  range_key                   = "observed#event_id"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "ville"
    type = "S"
  }

  attribute {
    name = "observed#event_id"
    type = "S"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}

# Records that can never be stored, with their reasons.
resource "aws_dynamodb_table" "rejects" {
  name                        = local.rejects
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "shard"
  range_key                   = "sequence#part"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "shard"
    type = "S"
  }

  attribute {
    name = "sequence#part"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}

# --- Function ---------------------------------------------------------------------------------------------------------
data "archive_file" "consumer" {
  type             = "zip"
  source_file      = local.consumer
  output_file_mode = "0644" # so that the archive depends on the content only
  output_path      = "${path.module}/.terraform/lambda_consumer.zip"
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${local.function}"
  retention_in_days = var.log_retention_days
}

resource "aws_lambda_function" "consumer" {
  function_name    = local.function
  description      = "Puts the records of ${local.stream} into DynamoDB"
  role             = aws_iam_role.function.arn
  runtime          = "python3.13"
  architectures    = ["arm64"]
  handler          = "lambda_consumer.lambda_handler"
  filename         = data.archive_file.consumer.output_path
  source_code_hash = data.archive_file.consumer.output_base64sha256
  timeout          = 60
  memory_size      = 256

  environment {
    variables = {
      PARTIAL_BATCH = "true"
      TABLE_LATEST  = aws_dynamodb_table.latest.name
      TABLE_HISTORY = aws_dynamodb_table.history.name
      TABLE_REJECTS = aws_dynamodb_table.rejects.name
    }
  }

  # Lambda would make a group without retention. It reads the rights when the mapping starts.
  depends_on = [aws_cloudwatch_log_group.function, aws_iam_role_policy.function]
}

# Positions of batches that failed for an hour. To recover them, read the stream there before its retention ends.
resource "aws_sqs_queue" "failed" {
  name                      = local.failed
  message_retention_seconds = 14 * 24 * 3600
  sqs_managed_sse_enabled   = true
}

resource "aws_lambda_event_source_mapping" "stream" {
  event_source_arn                   = aws_kinesis_stream.weather.arn
  function_name                      = aws_lambda_function.consumer.arn
  starting_position                  = "TRIM_HORIZON" # LATEST misses what is put while the mapping starts
  batch_size                         = 100
  maximum_batching_window_in_seconds = 1
  maximum_retry_attempts             = 5
  maximum_record_age_in_seconds      = 3600
  bisect_batch_on_function_error     = true
  function_response_types            = ["ReportBatchItemFailures"]

  destination_config {
    on_failure {
      destination_arn = aws_sqs_queue.failed.arn
    }
  }
}
