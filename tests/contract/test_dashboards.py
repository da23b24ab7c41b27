"""Rules for the saved objects of every vertical."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from infra.kibana.saved_objects import SavedObject, key, ndjson, objects_folder, pretty, read, to_ndjson
from jobs.settings import ROOT
from jobs.vertical import Vertical
from jobs.verticals import find_verticals

LENSES = sorted(ROOT.glob("infra/kibana/objects/*/lens.*.json"))
# Versions that every Kibana since 8.9 accepts.
SAFE = {"index-pattern": "8.0.0", "lens": "8.9.0", "map": "8.4.0", "search": "7.9.3", "dashboard": "8.9.0"}
COLUMNS = 48

each = pytest.mark.parametrize(
    "vertical", [one for one in find_verticals() if one.dashboard], ids=lambda vertical: vertical.name
)


def of_type(vertical: Vertical, kind: str) -> list[SavedObject]:
    return [saved for saved in read(objects_folder(vertical.name)) if saved["type"] == kind]


def fields(vertical: Vertical) -> set[str]:
    """The fields of the vertical's first index template, by their whole names."""

    def walk(properties: dict[str, Any], prefix: str) -> set[str]:
        names: set[str] = set()
        for name, spec in properties.items():
            names |= walk(spec["properties"], f"{prefix}{name}.") if "properties" in spec else {f"{prefix}{name}"}
        return names

    template = json.loads(next(iter(vertical.templates.values())).read_text())
    return walk(template["template"]["mappings"]["properties"], "") | {"___records___"}


@pytest.mark.parametrize("path", LENSES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_column_ids_are_unique_over_the_layers_of_a_lens(path: Path) -> None:
    """Lens merges the layers' tables by column id (elastic/kibana#276094): a double id swaps labels and formats."""
    layers = json.loads(path.read_text())["attributes"]["state"]["datasourceStates"]["formBased"]["layers"]
    columns = [column for layer in layers.values() for column in layer["columns"]]
    assert len(columns) == len(set(columns))


def test_ids_are_unique_over_the_verticals() -> None:
    ids = [key(saved) for folder in sorted(ROOT.glob("infra/kibana/objects/*")) for saved in read(folder)]
    assert len(ids) == len(set(ids)), "an import would overwrite another vertical's object"


@each
def test_files_are_as_an_export_writes_them(vertical: Vertical) -> None:
    folder = objects_folder(vertical.name)
    assert ndjson(vertical.name).read_text(encoding="utf-8") == to_ndjson(read(folder)), "python -m infra.kibana build"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert text == pretty(json.loads(text)) + "\n", path


@each
def test_objects_have_safe_versions_and_complete_references(vertical: Vertical) -> None:
    objects = read(objects_folder(vertical.name))
    known = {key(saved) for saved in objects}
    for saved in objects:
        assert saved["typeMigrationVersion"] == SAFE[saved["type"]], key(saved)
        assert {key(reference) for reference in saved["references"]} <= known, key(saved)
        names = [reference["name"] for reference in saved["references"]]
        assert len(names) == len(set(names)), key(saved)


@each
def test_the_dashboard_and_the_data_view_have_the_declared_id(vertical: Vertical) -> None:
    (dashboard,), (view,) = of_type(vertical, "dashboard"), of_type(vertical, "index-pattern")
    assert dashboard["id"] == view["id"] == vertical.dashboard
    assert view["attributes"]["timeFieldName"] in fields(vertical)
    assert {*view["attributes"]["fieldAttrs"], *view["attributes"]["fieldFormatMap"]} <= fields(vertical)


@each
def test_panels_are_on_the_grid_without_overlap(vertical: Vertical) -> None:
    (dashboard,) = of_type(vertical, "dashboard")
    panels = dashboard["attributes"]["panelsJSON"]
    targets = {reference["name"]: key(reference) for reference in dashboard["references"]}
    shown = [targets[f"{panel['panelIndex']}:{panel['panelRefName']}"] for panel in panels]
    others = [saved for saved in read(objects_folder(vertical.name)) if saved["type"] in ("lens", "map", "search")]
    assert sorted(shown) == sorted(map(key, others)), "every object is shown once"
    boxes = [panel["gridData"] for panel in panels]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= COLUMNS for box in boxes)
    for one, other in combinations(boxes, 2):
        is_beside = one["x"] >= other["x"] + other["w"] or other["x"] >= one["x"] + one["w"]
        assert is_beside or one["y"] >= other["y"] + other["h"] or other["y"] >= one["y"] + one["h"], (one, other)


@each
def test_lenses_and_searches_use_mapped_fields_and_existing_columns(vertical: Vertical) -> None:
    for saved in of_type(vertical, "lens"):
        state = saved["attributes"]["state"]
        layers = state["datasourceStates"]["formBased"]["layers"]
        for name, layer in layers.items():
            assert set(layer["columnOrder"]) == set(layer["columns"]), key(saved)
            assert {column["sourceField"] for column in layer["columns"].values()} <= fields(vertical), key(saved)
            assert f"indexpattern-datasource-layer-{name}" in {item["name"] for item in saved["references"]}
        shown = state["visualization"].get("layers", [state["visualization"]])
        assert {layer["layerId"] for layer in shown} == set(layers), key(saved)
    for saved in of_type(vertical, "search"):
        attributes = saved["attributes"]
        assert {*attributes["columns"], *(name for name, _ in attributes["sort"])} <= fields(vertical), key(saved)
