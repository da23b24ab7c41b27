# --- Where ------------------------------------------------------------------------------------------------------------
variable "region" {
  description = "Region of everything. AWS_DEFAULT_REGION in .env."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Give a region such as us-east-1 or eu-west-3."
  }
}

variable "tags" {
  description = "Tags of everything, so that a bill can be split by them."
  type        = map(string)
  default     = { app = "datastream" }

  validation {
    condition     = alltrue([for key, value in var.tags : can(regex("^[\\w .:/=+@-]{1,128}$", key)) && !startswith(lower(key), "aws:") && length(value) <= 256])
    error_message = "A tag has 1 to 128 letters, digits, spaces and _.:/=+-@, does not start with aws:, and its value has at most 256 characters."
  }
}

# --- How long ---------------------------------------------------------------------------------------------------------
variable "stream_retention_hours" {
  description = "Hours that the stream keeps a record. From 25 on, AWS charges for it."
  type        = number
  default     = 24

  validation {
    condition     = var.stream_retention_hours >= 24 && var.stream_retention_hours <= 8760 && floor(var.stream_retention_hours) == var.stream_retention_hours
    error_message = "Kinesis takes 24 to 8760 whole hours."
  }
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps the log of the function."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "CloudWatch takes 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653 days."
  }
}

# --- Who --------------------------------------------------------------------------------------------------------------
variable "producer_roles" {
  description = "Names of existing roles that may put records. Others: attach the policy of the output producer_policy."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for role in var.producer_roles : can(regex("^[\\w+=,.@-]{1,64}$", role))])
    error_message = "Give names of roles, not ARNs."
  }
}

variable "alarm_email" {
  description = "Address that gets the alarms and the budget's alerts. AWS asks it to confirm. Empty: alarms in the console only, and no budget."
  type        = string
  default     = ""

  validation {
    condition     = var.alarm_email == "" || can(regex("^[^@ ]+@[^@ ]+$", var.alarm_email))
    error_message = "Give an address, or leave it empty."
  }
}

# --- What must not happen by accident ---------------------------------------------------------------------------------
variable "deletion_protection" {
  description = "Refuse to delete the tables. Set it to false and apply before terraform destroy."
  type        = bool
  default     = true
}

variable "budget_amount" {
  description = "The budget of a month in US dollars, for the whole account."
  type        = number
  default     = 50

  validation {
    condition     = var.budget_amount >= 1 && floor(var.budget_amount) == var.budget_amount
    error_message = "Give a whole number, at least 1."
  }
}
