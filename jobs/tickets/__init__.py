"""Support tickets: from Redpanda or Kafka, checked and assigned by Spark, into Parquet or JSON."""
