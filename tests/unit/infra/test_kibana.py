"""Kibana's saved objects: structure, references, import and export.

No Kibana is available here. The rules are those that Kibana 8.9 to 9.x checks on import or fails on later. A fake
server stands in for the HTTP API.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from infra.kibana import saved_objects
from infra.kibana.saved_objects import (
    Key,
    Kibana,
    SavedObject,
    decode,
    encode,
    from_ndjson,
    import_objects,
    key,
    pretty,
    read,
    to_ndjson,
)
from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.rides.vertical import TEMPLATE
from jobs.settings import Settings
from tests.testkit.dashboard.queries import lens_layers, map_layers

OBJECTS = saved_objects.objects_folder("rides")
NDJSON = saved_objects.ndjson("rides")
ALL = read(OBJECTS)
BY_KEY = {key(saved): saved for saved in ALL}
FIELDS = {
    name: spec["type"] for name, spec in json.loads(TEMPLATE.read_text())["template"]["mappings"]["properties"].items()
}
NUMBERS = {"double", "integer", "long"}
COLUMNS = 48
# Versions that every Kibana since 8.9 accepts; Kibana rejects objects of newer ones. An export has the versions of its
# Kibana: raise these then, and the oldest Kibana that can import the files.
SAFE = {"index-pattern": "8.0.0", "lens": "8.9.0", "map": "8.4.0", "search": "7.9.3", "dashboard": "8.9.0"}
EXPECTED = {
    "index-pattern": {"rides"},
    "dashboard": {"rides"},
    "search": {"latest-rides"},
    "map": {"origins", "destinations"},
    "lens": {
        *("ride-count", "average-distance", "average-price", "revenue", "rides-per-minute", "rides-by-comfort"),
        *("average-distance-per-minute", "average-price-per-minute", "revenue-by-comfort"),
    },
}


def of_type(kind: str) -> list[Any]:
    return [pytest.param(saved, id=saved["id"]) for saved in ALL if saved["type"] == kind]


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def references(saved: SavedObject) -> dict[str, Key]:
    """The object's references by name."""
    by_name = {reference["name"]: key(reference) for reference in saved["references"]}
    assert len(by_name) == len(saved["references"]), "a name is used twice"
    return by_name


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every member of a JSON value at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


# The files


def test_the_folder_holds_exactly_the_objects_of_the_dashboard() -> None:
    assert {kind: {saved["id"] for saved in ALL if saved["type"] == kind} for kind in EXPECTED} == EXPECTED
    assert len(BY_KEY) == len(ALL) == sum(map(len, EXPECTED.values()))


def test_the_ndjson_file_holds_the_same_objects() -> None:
    assert NDJSON.read_text(encoding="utf-8") == to_ndjson(ALL), "run: python -m infra.kibana build"


@pytest.mark.parametrize("path", sorted(OBJECTS.glob("*")), ids=lambda path: path.name)
def test_object_files_are_written_as_by_an_export(path: Path) -> None:
    """An export after a change in Kibana then shows only that change as a difference."""
    assert path.read_text(encoding="utf-8") == pretty(json.loads(path.read_text(encoding="utf-8"))) + "\n"


@pytest.mark.parametrize("saved", ALL, ids=lambda saved: str(key(saved)))
def test_decoding_reverses_encoding(saved: SavedObject) -> None:
    before = deepcopy(saved)
    assert decode(saved) == saved
    assert decode(encode(saved)) == saved
    assert encode(decode(encode(saved))) == encode(saved)
    assert saved == before, "nothing was changed in place"


def test_encoded_objects_hold_json_as_strings() -> None:
    for line in from_ndjson(NDJSON.read_text(encoding="utf-8")):
        strings = {name: value for name, value in walk(line["attributes"]) if name.endswith("JSON")}
        assert all(isinstance(value, str) and json.loads(value) is not None for value in strings.values())
        assert set(strings) >= {
            "dashboard": {"panelsJSON", "optionsJSON", "searchSourceJSON", "ignoreParentSettingsJSON"},
            "map": {"layerListJSON", "mapStateJSON", "uiStateJSON"},
            "search": {"searchSourceJSON"},
        }.get(line["type"], set())
        if line["type"] == "index-pattern":
            assert json.loads(line["attributes"]["fieldFormatMap"])["price_total"] == {
                "id": "number",
                "params": {"pattern": "0,0.00"},
            }
        if line["type"] == "lens":
            assert isinstance(line["attributes"]["state"], dict)


def test_nested_json_is_decoded_and_other_strings_are_not() -> None:
    inner = {"layerListJSON": '[{"label":"Zürich"}]', "note": "[1]"}
    saved = {
        "type": "dashboard",
        "id": "a",
        "attributes": {"panelsJSON": json.dumps([inner], ensure_ascii=False, separators=(",", ":")), "uiStateJSON": ""},
        "references": [],
    }
    decoded = decode(saved)
    assert decoded["attributes"] == {
        "panelsJSON": [{"layerListJSON": [{"label": "Zürich"}], "note": "[1]"}],
        "uiStateJSON": "",
    }
    assert encode(decoded) == saved


def test_data_view_fields_are_decoded_only_in_data_views() -> None:
    for kind, expected in (("index-pattern", []), ("search", "[]")):
        saved = {"type": kind, "id": "a", "attributes": {"fields": "[]"}, "references": []}
        assert decode(saved)["attributes"]["fields"] == expected
        assert encode(decode(saved)) == saved


# The rules


@pytest.mark.parametrize("saved", ALL, ids=lambda saved: str(key(saved)))
def test_saved_objects_have_a_valid_envelope(saved: SavedObject) -> None:
    assert set(saved) == {
        *("attributes", "coreMigrationVersion", "id", "managed", "references", "type", "typeMigrationVersion")
    }
    assert version(saved["typeMigrationVersion"]) <= version(SAFE[saved["type"]])
    assert version(saved["coreMigrationVersion"]) <= (8, 8, 0)
    assert saved["attributes"]["title"]
    for reference in saved["references"]:
        assert set(reference) == {"id", "name", "type"}
        assert key(reference) in BY_KEY, reference


def test_the_data_view_matches_the_template() -> None:
    (view,) = (saved for saved in ALL if saved["type"] == "index-pattern")
    attributes = view["attributes"]
    assert (attributes["title"], attributes["timeFieldName"]) == ("rides*", "ts")
    assert FIELDS["ts"] == "date"
    assert attributes["fieldFormatMap"].keys() | attributes["fieldAttrs"].keys() <= FIELDS.keys()
    assert all(FIELDS[name] in NUMBERS for name in attributes["fieldFormatMap"])
    assert view["references"] == []


@pytest.mark.parametrize("saved", of_type("lens"))
def test_lens_columns_are_consistent_and_use_mapped_fields(saved: SavedObject) -> None:
    attributes = saved["attributes"]
    assert set(attributes) <= {"title", "description", "visualizationType", "state", "version"}
    for layer_id, layer in lens_layers(saved).items():
        assert references(saved)[f"indexpattern-datasource-layer-{layer_id}"] == Key("index-pattern", "rides")
        columns = layer["columns"]
        assert sorted(layer["columnOrder"]) == sorted(columns)
        buckets = [columns[name]["isBucketed"] for name in layer["columnOrder"]]
        assert buckets == sorted(buckets, reverse=True), "buckets come before metrics"
        for column in columns.values():
            kind, field, params = column["operationType"], column["sourceField"], column.get("params", {})
            assert column["label"]
            assert column["isBucketed"] == (kind in ("date_histogram", "terms"))
            if kind == "count":
                assert field == "___records___"
            elif kind == "date_histogram":
                assert FIELDS[field] == "date"
                assert re.fullmatch(r"\d+[smhd]", params["interval"])
            elif kind == "terms":
                assert FIELDS[field] == "keyword"
                assert params["size"] >= len(("low", "medium", "high"))
                assert params["orderDirection"] in ("asc", "desc")
                by = params["orderBy"]
                assert by["type"] == "alphabetical" or not columns[by["columnId"]]["isBucketed"]
            else:
                assert kind in ("average", "sum")
                assert FIELDS[field] in NUMBERS
    assert len(references(saved)) == len(lens_layers(saved))


@pytest.mark.parametrize("saved", of_type("lens"))
def test_lens_visualizations_use_existing_columns(saved: SavedObject) -> None:
    state = saved["attributes"]["state"]
    kind, visualization = saved["attributes"]["visualizationType"], state["visualization"]
    buckets, metrics = {
        "lnsMetric": ([], ["metricAccessor"]),
        "lnsPie": (["primaryGroups"], ["metrics"]),
        "lnsXY": (["xAccessor", "splitAccessor"], ["accessors"]),
    }[kind]
    shown = [visualization] if kind == "lnsMetric" else visualization["layers"]
    assert sorted(layer["layerId"] for layer in shown) == sorted(lens_layers(saved))
    for layer in shown:
        assert layer["layerType"] == "data"
        columns = lens_layers(saved)[layer["layerId"]]["columns"]
        used = [
            (name, accessor in buckets)
            for accessor in (*buckets, *metrics)
            for name in ([layer[accessor]] if isinstance(layer.get(accessor), str) else layer.get(accessor, []))
        ]
        assert {name for name, _ in used} == set(columns), "every column is shown"
        assert all(columns[name]["isBucketed"] == is_bucket for name, is_bucket in used)
        if kind == "lnsXY":
            assert columns[layer["xAccessor"]]["operationType"] == "date_histogram"
            assert layer["seriesType"] in ("bar_stacked", "line")
    if kind == "lnsPie":
        assert visualization["shape"] == "donut"


@pytest.mark.parametrize("saved", of_type("map"))
def test_maps_use_mapped_fields_and_the_dashboard_time(saved: SavedObject) -> None:
    layers, state = saved["attributes"]["layerListJSON"], saved["attributes"]["mapStateJSON"]
    assert layers[0]["sourceDescriptor"]["type"] == "EMS_TMS"
    assert len({layer["id"] for layer in layers}) == len(layers) == len(map_layers(saved)) + 1
    assert 0 <= state["zoom"] <= 24
    for index, layer in enumerate(layers):
        assert 0 <= layer["minZoom"] <= layer["maxZoom"] <= 24
        assert 0 <= layer["alpha"] <= 1
        source = layer["sourceDescriptor"]
        if layer not in map_layers(saved):
            continue
        assert source["indexPatternRefName"] == f"layer_{index}_source_index_pattern"
        assert references(saved)[source["indexPatternRefName"]] == Key("index-pattern", "rides")
        assert FIELDS[source["geoField"]] == "geo_point"
        assert source["geoField"] == saved["id"].removesuffix("s")
        assert layer["type"] == "GEOJSON_VECTOR"
        offered = {"doc_count"}
        for metric in source.get("metrics", []):
            if metric["type"] != "count":
                assert FIELDS[metric["field"]] in NUMBERS
                offered.add(f"{metric['type']}_of_{metric['field']}")
        styled = {value["name"] for name, value in walk(layer["style"]) if name == "field"}
        assert styled <= offered
        assert set(source.get("tooltipProperties", [])) <= FIELDS.keys()
    zooms = [(layer["minZoom"], layer["maxZoom"]) for layer in map_layers(saved)]
    assert zooms[0][0] == 0
    assert zooms[0][1] == zooms[1][0]
    assert zooms[1][1] == 24


@pytest.mark.parametrize("saved", of_type("search"))
def test_searches_show_mapped_fields(saved: SavedObject) -> None:
    attributes = saved["attributes"]
    source = attributes["kibanaSavedObjectMeta"]["searchSourceJSON"]
    assert references(saved) == {source["indexRefName"]: Key("index-pattern", "rides")}
    assert set(attributes["columns"]) <= FIELDS.keys()
    assert attributes["sort"] == [["ts", "desc"]]


@pytest.fixture
def dashboard() -> SavedObject:
    return BY_KEY[Key("dashboard", "rides")]


def test_the_dashboard_opens_on_the_last_hours_and_refreshes(dashboard: SavedObject) -> None:
    attributes = dashboard["attributes"]
    assert attributes["title"] == "Rides"
    assert attributes["timeRestore"] is True
    assert (attributes["timeFrom"], attributes["timeTo"]) == ("now-4h", "now")
    assert attributes["refreshInterval"] == {"pause": False, "value": 10_000}
    # Kibana refuses a dashboard with any other attribute.
    assert set(attributes) <= {
        *("title", "description", "timeRestore", "timeFrom", "timeTo", "refreshInterval", "kibanaSavedObjectMeta"),
        *("optionsJSON", "panelsJSON", "controlGroupInput", "hits", "version"),
    }


def test_panels_and_references_match(dashboard: SavedObject) -> None:
    panels = dashboard["attributes"]["panelsJSON"]
    named = references(dashboard)
    controls = dashboard["attributes"]["controlGroupInput"]["panelsJSON"]
    for name, control in controls.items():
        assert control["explicitInput"]["id"] == name
        assert FIELDS[control["explicitInput"]["fieldName"]] == "keyword"
        assert named.pop(f"controlGroup_{name}:optionsListDataView") == Key("index-pattern", "rides")
    for panel in panels:
        assert panel["gridData"]["i"] == panel["panelIndex"]
        assert named.pop(f"{panel['panelIndex']}:{panel['panelRefName']}").type == panel["type"]
    assert named == {}, "every reference is a panel's"
    shown = {key(reference) for reference in dashboard["references"]}
    assert shown == BY_KEY.keys() - {key(dashboard)}, "every object is on the dashboard"


def test_panels_fill_the_grid_without_overlap(dashboard: SavedObject) -> None:
    grids = [panel["gridData"] for panel in dashboard["attributes"]["panelsJSON"]]
    cells = [
        {
            (column, row)
            for column in range(grid["x"], grid["x"] + grid["w"])
            for row in range(grid["y"], grid["y"] + grid["h"])
        }
        for grid in grids
    ]
    assert all(one.isdisjoint(other) for one, other in combinations(cells, 2))
    height = max(grid["y"] + grid["h"] for grid in grids)
    assert set().union(*cells) == {(column, row) for column in range(COLUMNS) for row in range(height)}


# To Kibana and back


class FakeKibana:
    """Responds as the documentation of Kibana's HTTP API describes; no Kibana is available here."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/")
        self.stored: dict[Key, SavedObject] = {}
        self.requests: list[Request] = []
        self.failures: list[tuple[int, Any]] = []  # responses to the next requests
        self.errors: list[dict[str, Any]] = []  # of the next import
        self.default: str | None = None
        server.expect_request(re.compile("")).respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        self.requests.append(request)
        status, content = self.failures.pop(0) if self.failures else self.answer(request)
        return Response(content if isinstance(content, str) else json.dumps(content), status)

    def answer(self, request: Request) -> tuple[int, Any]:
        match request.method, request.path:
            case "GET", "/api/status":
                return 200, {"status": {"overall": {"level": "available", "summary": "All services are available"}}}
            case "POST", "/api/saved_objects/_export":
                return 200, self.export(request.get_json())
            case "POST", "/api/saved_objects/_import":
                return 200, self.import_(request)
            case "POST", "/api/data_views/default":
                body = request.get_json()
                self.default = body["data_view_id"] if body["force"] or self.default is None else self.default
                return 200, {"acknowledged": True}
        return 404, {"statusCode": 404, "error": "Not Found", "message": "Not Found"}

    def export(self, body: dict[str, Any]) -> str:
        names = {name for name in self.stored if name.type in body.get("type", [])}
        left = [Key(**name) for name in body.get("objects", [])]
        while left:
            name = left.pop()
            if name in self.stored and name not in names:
                names.add(name)
                left += map(key, self.stored[name]["references"]) if body["includeReferencesDeep"] else []
        lines = [self.stored[name] | {"updated_at": "2026-01-05T08:00:00Z", "version": "WzEsMV0="} for name in names]
        return "\n".join(map(json.dumps, [*lines, {"exportedCount": len(lines), "missingRefCount": 0}]))

    def import_(self, request: Request) -> dict[str, Any]:
        file = request.files["file"]
        assert file.filename == "objects.ndjson"
        objects = from_ndjson(file.read().decode())
        is_overwriting = request.args.to_dict() == {"overwrite": "true"}
        conflicts = [saved for saved in objects if key(saved) in self.stored and not is_overwriting]
        errors = self.errors + [{**key(saved)._asdict(), "error": {"type": "conflict"}} for saved in conflicts]
        done = [saved for saved in objects if saved not in conflicts]
        self.stored |= {key(saved): saved for saved in done}
        results = [key(saved)._asdict() for saved in done]
        return {"success": not errors, "successCount": len(done), "successResults": results, "errors": errors}


@pytest.fixture
def fake(httpserver: HTTPServer) -> FakeKibana:
    return FakeKibana(httpserver)


@pytest.fixture
def kibana(fake: FakeKibana) -> Kibana:
    return Kibana(Settings(_env_file=None, kibana_url=fake.url, elastic_password="secret"))  # noqa: S106


def test_import_into_an_empty_fake_kibana_stores_all_objects(fake: FakeKibana, kibana: Kibana) -> None:
    kibana.wait(5)
    done = import_objects(kibana, ALL)
    kibana.default_data_view("rides")
    assert (done.imported, done.left) == ([key(saved) for saved in ALL], [])
    assert fake.stored == {key(saved): encode(saved) for saved in ALL}
    assert fake.default == "rides"
    login = f"Basic {b64encode(b'elastic:secret').decode()}"
    assert all(request.headers["kbn-xsrf"] and request.headers["authorization"] == login for request in fake.requests)


def test_import_keeps_user_changes_in_a_fake_kibana(fake: FakeKibana, kibana: Kibana) -> None:
    import_objects(kibana, ALL)
    changed = Key("lens", "revenue")
    fake.stored[changed]["attributes"]["title"] = "Umsatz"
    done = import_objects(kibana, ALL)
    assert (done.imported, done.left) == ([], [key(saved) for saved in ALL])
    assert fake.stored[changed]["attributes"]["title"] == "Umsatz"

    done = import_objects(kibana, ALL, overwrite=True)
    assert (len(done.imported), done.left) == (len(ALL), [])
    assert fake.stored[changed]["attributes"]["title"] == "Revenue"


def test_import_restores_missing_objects_in_a_fake_kibana(fake: FakeKibana, kibana: Kibana) -> None:
    import_objects(kibana, ALL)
    dashboard, changed, lost = Key("dashboard", "rides"), Key("lens", "revenue"), Key("map", "origins")
    fake.stored[changed]["attributes"]["title"] = "Umsatz"
    del fake.stored[dashboard], fake.stored[lost]
    before = deepcopy(fake.stored)
    done = import_objects(kibana, ALL)
    assert (done.imported, len(done.left)) == ([lost, dashboard], len(ALL) - 2)
    assert fake.stored == before | {name: encode(BY_KEY[name]) for name in (dashboard, lost)}


def test_all_import_errors_of_a_fake_kibana_are_reported(fake: FakeKibana, kibana: Kibana) -> None:
    missing = [{"type": "index-pattern", "id": "gone"}]
    fake.errors = [
        {"type": "lens", "id": "revenue", "error": {"type": "missing_references", "references": missing}},
        {"type": "map", "id": "origins", "error": {"type": "unknown", "message": "it is odd", "statusCode": 400}},
    ]
    with pytest.raises(DatastreamError, match="refused 2") as raised:
        import_objects(kibana, ALL)
    assert 'lens:revenue: missing_references; references [{"type":"index-pattern","id":"gone"}]' in str(raised.value)
    assert "map:origins: unknown; it is odd; statusCode 400" in str(raised.value)
    assert kibana.address in str(raised.value)


def test_an_existing_default_data_view_of_a_fake_kibana_is_kept(fake: FakeKibana, kibana: Kibana) -> None:
    fake.default = "theirs"
    kibana.default_data_view("rides")
    assert fake.default == "theirs"


def test_wait_returns_when_a_fake_kibana_is_available(
    fake: FakeKibana, kibana: Kibana, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_objects, "_POLL_S", 0.01)
    level = {"status": {"overall": {"level": "critical", "summary": "migrating"}}}
    degraded = {"status": {"overall": {"level": "degraded", "summary": "a plugin is slow"}}}
    fake.failures = [(503, "Kibana server is not ready yet"), (200, level), (200, degraded)]
    kibana.wait(5)
    assert len(fake.requests) == 3

    fake.failures = [(200, level)] * 100
    with pytest.raises(ServiceUnavailableError, match=r"critical \(migrating\).*KIBANA_URL.*Gave up after 0\.05 s"):
        kibana.wait(0.05)


def test_an_unreachable_kibana_is_reported() -> None:
    kibana = Kibana(Settings(_env_file=None, kibana_url="http://127.0.0.1:9"))
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9 does not answer.*docker compose ps kibana"):
        kibana.wait(0)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, ConfigurationError, "ELASTIC_PASSWORD"),
        (500, ServiceUnavailableError, "500"),
        (400, DatastreamError, "400"),
    ],
)
def test_refused_requests_to_a_fake_kibana_raise_the_matching_error(
    fake: FakeKibana, kibana: Kibana, status: int, kind: type[Exception], text: str
) -> None:
    fake.failures = [(status, {"message": "no"})]
    with pytest.raises(DatastreamError, match=rf"{text}") as raised:
        import_objects(kibana, ALL)
    assert type(raised.value) is kind
    assert '"message": "no"' in str(raised.value)


def test_an_export_from_a_fake_kibana_changes_only_edited_files(
    fake: FakeKibana, kibana: Kibana, tmp_path: Path
) -> None:
    import_objects(kibana, ALL)
    folder, target = tmp_path / "objects", tmp_path / "rides.ndjson"
    saved_objects.write(kibana.with_references(Key("dashboard", "rides")).values(), folder, target)
    files = {path.name: path.read_text() for path in OBJECTS.iterdir()}
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    assert target.read_text() == NDJSON.read_text()

    dashboard = fake.stored[Key("dashboard", "rides")]
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    dashboard["attributes"]["panelsJSON"] = json.dumps([panel for panel in panels if panel["panelIndex"] != "origins"])
    dashboard["references"] = [reference for reference in dashboard["references"] if reference["id"] != "origins"]
    fake.stored[Key("lens", "revenue")]["attributes"]["title"] = "Umsatz in Zürich"
    removed = saved_objects.write(kibana.with_references(Key("dashboard", "rides")).values(), folder, target)
    assert removed == ["map.origins.json"]
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert written.keys() == files.keys() - {"map.origins.json"}
    assert {name for name in written if written[name] != files[name]} == {"dashboard.rides.json", "lens.revenue.json"}
    assert '"title": "Umsatz in Zürich"' in written["lens.revenue.json"]


def test_an_export_from_a_fake_kibana_without_the_dashboard_names_the_remedy(fake: FakeKibana, kibana: Kibana) -> None:
    with pytest.raises(DatastreamError, match=r"has no dashboard:rides.*python -m infra\.kibana import"):
        kibana.with_references(Key("dashboard", "rides"))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("lens.a.json", "{", "not a saved object"),
        ("lens.a.json", "[]", "not a saved object"),
        ("lens.a.json", '{"type": "lens", "id": "b"}', "named lens.b.json"),
        ("readme.txt", "", "no saved objects"),
    ],
)
def test_invalid_object_files_are_rejected_by_name(tmp_path: Path, name: str, content: str, fault: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(fault)) as raised:
        read(tmp_path)
    assert str(tmp_path) in str(raised.value)
