# --- Where ------------------------------------------------------------------------------------------------------------
variable "project_id" {
  description = "Id of an existing project with billing on (not its name, not its number)."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project id has 6 to 30 lower case letters, digits and hyphens and starts with a letter."
  }
}

variable "location" {
  description = "Location of the bucket and of the dataset: BigQuery reads a bucket only from where the dataset is."
  type        = string
  default     = "EU"

  validation {
    condition     = contains(["EU", "US"], var.location) || can(regex("^[a-z]+-[a-z]+[0-9]+$", var.location))
    error_message = "Give EU, US or a region in lower case, such as europe-west9."
  }
}

variable "labels" {
  description = "Labels of everything that can have some, so that a bill can be split by them."
  type        = map(string)
  default     = { app = "datastream" }

  validation {
    condition = alltrue([
      for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "Labels are lower case letters, digits, hyphens and underscores, at most 63; keys start with a letter."
  }
}

# --- Bucket -----------------------------------------------------------------------------------------------------------
variable "bucket_name" {
  description = "Name of the bucket, unique in all of Google. GCS_BUCKET in .env."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket_name)) && !startswith(var.bucket_name, "goog")
    error_message = "3 to 63 lower case letters, digits, hyphens and underscores, no dots, not starting with goog."
  }
}

variable "gcs_prefix" {
  description = "Folder of the rides' Parquet objects. GCS_PREFIX in .env."
  type        = string
  default     = "rides/processed/"

  validation {
    condition     = trim(var.gcs_prefix, "/") != "" && !strcontains(var.gcs_prefix, "*")
    error_message = "Give a folder such as rides/processed/, without an asterisk."
  }
}

variable "staging_prefix" {
  description = "Folder of staged chunks, if STAGING_URL in .env points into this bucket. Must lie outside gcs_prefix."
  type        = string
  default     = "staging/"

  validation {
    condition     = trim(var.staging_prefix, "/") != "" && !strcontains(var.staging_prefix, "*")
    error_message = "Give a folder such as staging/, without an asterisk."
  }
}

variable "staging_delete_after_days" {
  description = "Days until a forgotten staged chunk is deleted. Longer than the topics keep messages (7 days)."
  type        = number
  default     = 14

  validation {
    condition     = var.staging_delete_after_days >= 8 && floor(var.staging_delete_after_days) == var.staging_delete_after_days
    error_message = "At least 8 whole days: a chunk may be needed as long as the topic still has its messages."
  }
}

variable "rides_nearline_after_days" {
  description = "Days until rides move to Nearline (cheaper to keep, costs to read: for those who query the native table). 0: never."
  type        = number
  default     = 0

  validation {
    condition     = var.rides_nearline_after_days >= 0 && floor(var.rides_nearline_after_days) == var.rides_nearline_after_days
    error_message = "Give whole days, or 0 for never."
  }
}

variable "rides_delete_after_days" {
  description = "Days until rides are deleted from the bucket, for good. 0: never."
  type        = number
  default     = 0

  validation {
    condition     = var.rides_delete_after_days >= 0 && floor(var.rides_delete_after_days) == var.rides_delete_after_days
    error_message = "Give whole days, or 0 for never."
  }
}

variable "soft_delete_days" {
  description = "Days that deleted objects can be brought back, and are paid for. 0: none; take it if you stage in this bucket."
  type        = number
  default     = 7

  validation {
    condition     = var.soft_delete_days == 0 || (var.soft_delete_days >= 7 && var.soft_delete_days <= 90)
    error_message = "Google takes 0, or 7 to 90 days."
  }
}

# --- BigQuery ---------------------------------------------------------------------------------------------------------
variable "dataset_id" {
  description = "The dataset. BIGQUERY_DATASET in .env."
  type        = string
  default     = "rides"

  validation {
    condition     = can(regex("^[A-Za-z0-9_]+$", var.dataset_id)) && length(var.dataset_id) <= 1024
    error_message = "Letters, digits and underscores only."
  }
}

variable "external_table" {
  description = "Create rides_processed_ext here too. The playbook's SQL creates it anyway, once there is a Parquet object; BigQuery may refuse a table of Parquet files with a given schema."
  type        = bool
  default     = false
}

# --- Who may do what --------------------------------------------------------------------------------------------------
variable "service_account_id" {
  description = "The part of the service account's address before the @."
  type        = string
  default     = "datastream-sa"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.service_account_id))
    error_message = "6 to 30 lower case letters, digits and hyphens, starting with a letter."
  }
}

variable "impersonators" {
  description = "Who may act as the service account without a key, such as [\"user:ada@example.com\"]."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.impersonators : can(regex("^(user|group|serviceAccount):.+@.+$", member))])
    error_message = "Write user:, group: or serviceAccount: and an address."
  }
}

variable "workload_identities" {
  description = "Workloads that are the service account without a key: a Kubernetes service account of GKE, or a principal of a workload identity pool."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.workload_identities :
      can(regex("^serviceAccount:[a-z0-9.:-]+\\.svc\\.id\\.goog\\[[^/]+/[^/]+\\]$", member)) || can(regex("^principal(Set)?://iam\\.googleapis\\.com/.+$", member))
    ])
    error_message = "Write serviceAccount:PROJECT.svc.id.goog[NAMESPACE/NAME], principal://… or principalSet://…."
  }
}

variable "create_key" {
  description = "Create a key of the service account and keep it in Secret Manager. It is in Terraform's state as well: off unless nothing else will do."
  type        = bool
  default     = false
}

# --- What must not happen by accident ---------------------------------------------------------------------------------
variable "deletion_protection" {
  description = "Refuse to delete the native table, which may hold more than the bucket still does."
  type        = bool
  default     = true
}

variable "force_destroy" {
  description = "Let terraform destroy delete the bucket's objects and whatever else is in the dataset (models, tables and views of the playbook)."
  type        = bool
  default     = false
}

variable "billing_account" {
  description = "Billing account (XXXXXX-XXXXXX-XXXXXX) that gets a budget with alerts by mail. Empty: no budget."
  type        = string
  default     = ""

  validation {
    condition     = var.billing_account == "" || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "An account id looks like 012345-6789AB-CDEF01; leave it empty for no budget."
  }
}

variable "budget_amount" {
  description = "The budget of a month, in whole units of the billing account's currency."
  type        = number
  default     = 50

  validation {
    condition     = var.budget_amount >= 1 && floor(var.budget_amount) == var.budget_amount
    error_message = "Give a whole number, at least 1."
  }
}
