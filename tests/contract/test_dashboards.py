"""Rules for the saved objects of every vertical."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.settings import ROOT

LENSES = sorted(ROOT.glob("infra/kibana/objects/*/lens.*.json"))


@pytest.mark.parametrize("path", LENSES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_column_ids_are_unique_over_the_layers_of_a_lens(path: Path) -> None:
    """Lens merges the layers' tables by column id (elastic/kibana#276094): a double id swaps labels and formats."""
    layers = json.loads(path.read_text())["attributes"]["state"]["datasourceStates"]["formBased"]["layers"]
    columns = [column for layer in layers.values() for column in layer["columns"]]
    assert len(columns) == len(set(columns))
