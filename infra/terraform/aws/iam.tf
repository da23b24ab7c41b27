# --- What the function may do -----------------------------------------------------------------------------------------
resource "aws_iam_role" "function" {
  name        = "datastream-${local.function}"
  description = "The function ${local.function}"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

# The mapping reads, fails and logs with the function's role.
resource "aws_iam_role_policy" "function" {
  name = "consume"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Read"
        Effect = "Allow"
        Action = [
          "kinesis:DescribeStream", # Lambda checks it when the mapping is made
          "kinesis:DescribeStreamSummary",
          "kinesis:GetRecords",
          "kinesis:GetShardIterator",
          "kinesis:ListShards",
        ]
        Resource = [aws_kinesis_stream.weather.arn]
      },
      {
        Sid      = "Store"
        Effect   = "Allow"
        Action   = ["dynamodb:PutItem"]
        Resource = [aws_dynamodb_table.latest.arn, aws_dynamodb_table.history.arn, aws_dynamodb_table.rejects.arn]
      },
      {
        Sid      = "Fail"
        Effect   = "Allow"
        Action   = ["sqs:SendMessage"]
        Resource = [aws_sqs_queue.failed.arn]
      },
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.function.arn}:*"]
      },
    ]
  })
}

# --- What the producer may do -----------------------------------------------------------------------------------------
# Attach it to the user or role that runs producer/serverless/put_weather.py.
resource "aws_iam_policy" "producer" {
  name        = "datastream-put-weather"
  description = "Put records into ${local.stream}"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Put"
      Effect   = "Allow"
      Action   = ["kinesis:PutRecords"]
      Resource = [aws_kinesis_stream.weather.arn]
    }]
  })
}

resource "aws_iam_role_policy_attachment" "producer" {
  for_each = var.producer_roles

  role       = each.value
  policy_arn = aws_iam_policy.producer.arn
}
