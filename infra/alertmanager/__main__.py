"""Write Alertmanager's configuration to standard output or a file: `python -m infra.alertmanager [FILE]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.alertmanager import make_configuration
from jobs.errors import ConfigurationError
from jobs.observability.vertical import ObservabilitySettings
from jobs.settings import load


def main() -> None:
    try:
        text = make_configuration(load(ObservabilitySettings))
    except ConfigurationError as error:
        sys.exit(f"error: {error}")
    if len(sys.argv) == 1:
        print(text, end="")
        return
    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)  # it may belong to the user of an earlier start
    # It holds secrets; Alertmanager runs as the same user.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
