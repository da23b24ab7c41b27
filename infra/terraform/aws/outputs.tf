output "env" {
  description = "Lines for .env: terraform output -raw env"
  value       = <<-EOT
    AWS_EMULATOR=none
    AWS_DEFAULT_REGION=${var.region}
  EOT
}

output "stream" {
  description = "ARN of the stream."
  value       = aws_kinesis_stream.weather.arn
}

output "log_group" {
  description = "Log of the function: aws logs tail GROUP --follow"
  value       = aws_cloudwatch_log_group.function.name
}

output "failed_queue" {
  description = "URL of the queue with the positions of batches that were given up."
  value       = aws_sqs_queue.failed.url
}

output "producer_policy" {
  description = "ARN of the policy for the user or role that runs put_weather.py."
  value       = aws_iam_policy.producer.arn
}
