"""Alertmanager's configuration: alertmanager.yml with the receivers of the file in OBSERVABILITY_RECEIVERS.

Alertmanager reads no environment variables and one file only, so that file is written before it starts. It may hold
secrets.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from jobs.errors import ConfigurationError
from jobs.observability.vertical import ObservabilitySettings

FILE = Path(__file__).with_name("alertmanager.yml")
TEAM = "team"


def make_configuration(settings: ObservabilitySettings) -> str:
    """The configuration as YAML.

    Raises:
        ConfigurationError: the file with receivers cannot be read.
    """
    configuration = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    (team,) = (receiver for receiver in configuration["receivers"] if receiver["name"] == TEAM)
    file = settings.receivers_file
    if file is not None:
        team |= _read_receivers(file)
    return yaml.safe_dump(configuration, sort_keys=False)


def _read_receivers(file: Path) -> dict[str, object]:
    example = "See infra/alertmanager/receivers.example.yml."
    try:
        receivers = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # Only the kind: the text of a YAML error quotes the line, which may hold a secret.
        reason = error.strerror if isinstance(error, OSError) else "no YAML in UTF-8"
        raise ConfigurationError(f"OBSERVABILITY_RECEIVERS={file}: {reason}. {example}") from None
    if not isinstance(receivers, dict) or not all(str(name).endswith("_configs") for name in receivers):
        raise ConfigurationError(f"OBSERVABILITY_RECEIVERS={file}: not a mapping of <kind>_configs. {example}")
    return receivers
