"""Write the files that follow from what the code declares: `python -m infra.generate`. A test compares them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from jobs.rides import fields
from jobs.rides.vertical import TEMPLATE
from jobs.settings import ROOT, Settings
from jobs.verticals import find_verticals, stack_settings

INFRA = ROOT / "infra"
_COMMENT = "# Generated from the verticals' declarations by `make generate`.\n"


def generate() -> dict[Path, str]:
    """The content of each generated file."""
    return {
        INFRA / "verticals.env": _environment_file(_settings()),
        INFRA / "airflow" / "variables.env": _environment_file(_variables()),
        TEMPLATE: json.dumps(fields.index_template(), indent=2) + "\n",
        INFRA / "terraform" / "rides_schema.json": _json_lines(fields.table_schema()),
    }


def _environment_file(lines: Iterable[str]) -> str:
    return _COMMENT + "".join(f"{line}\n" for line in lines)


def _json_lines(items: Iterable[object]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in items) + "\n]\n"


def _settings() -> Iterable[str]:
    """What verticals add to the settings; empty means the default."""
    names = sorted(stack_settings().model_fields.keys() - Settings.model_fields.keys())
    return (f"{name.upper()}=${{{name.upper()}:-}}" for name in names)


def _variables() -> Iterable[str]:
    """Airflow's Variables, by the settings of the same name."""
    for vertical in find_verticals():
        for name in vertical.variables:
            default = vertical.settings.model_fields[name].default
            yield f"AIRFLOW_VAR_{name.upper()}=${{{name.upper()}:-{default}}}"


def main() -> None:
    for path, content in generate().items():
        path.write_text(content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
