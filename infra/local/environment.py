"""Settings as environment variables."""

from __future__ import annotations

from jobs.settings import ROOT, Settings


def export_settings(settings: Settings) -> dict[str, str]:
    """Every setting as the variable that it is read from, so that a subprocess has the same settings."""
    values = {name.upper(): str(getattr(settings, name)) for name in type(settings).model_fields}
    values |= {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "ELASTICSEARCH_URL": settings.es_url,
        "KIBANA_URL": settings.kibana_address,
        "CLOUD_STORAGE": "emulator" if settings.gcs_endpoint else "google",
        "GCS_EMULATOR_URL": settings.gcs_endpoint or "",
        "GCS_BUCKET": settings.bucket,
        "GOOGLE_APPLICATION_CREDENTIALS": str(settings.gcs_credentials_file or ""),
        "STAGING_URL": settings.staging,
    }
    # Google's clients read an empty path as a file without a name.
    return {name: value for name, value in values.items() if value} | {"PYTHONPATH": str(ROOT)}
