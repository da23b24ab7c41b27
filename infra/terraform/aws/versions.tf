terraform {
  required_version = ">= 1.5"

  required_providers {
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.7"
    }
    aws = {
      source = "hashicorp/aws"
      # Majors may remove arguments; minors may not.
      version = "~> 6.0"
    }
  }

  # State is kept in this folder. For more than one person, use a bucket with versioning.
  # backend "s3" {
  #   bucket       = "my-terraform-state"
  #   key          = "datastream/serverless.tfstate"
  #   region       = "us-east-1"
  #   use_lockfile = true
  # }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = var.tags
  }
}
