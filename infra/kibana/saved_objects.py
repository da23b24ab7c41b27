"""Kibana's saved objects: as files that people read and compare, as NDJSON, and to and from Kibana.

Kibana keeps parts of an object as JSON inside strings (`panelsJSON`, `layerListJSON`, …). Here an object is *decoded*
when those strings are plain JSON, as under `objects/`, and *encoded* as Kibana wants it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import requests
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.clients import make_local_session
from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.settings import Settings

HERE = Path(__file__).parent
OBJECTS = HERE / "objects"


USER = "elastic"
WAIT_S = 300  # a first start of Kibana takes a minute or two

# Attributes that hold JSON in a string: everywhere, and in data views only.
_JSON_STRINGS = ("visState",)
_JSON_SUFFIX = "JSON"
_DATA_VIEW_STRINGS = ("fieldAttrs", "fieldFormatMap", "fields", "runtimeFieldMap", "sourceFilters", "typeMeta")
# What is an object's own; the rest (updated_at, version, …) says when and where it was stored.
_KEPT = ("attributes", "coreMigrationVersion", "id", "managed", "references", "type", "typeMigrationVersion")
# An object before those that refer to it.
_ORDER = ("index-pattern", "search", "lens", "map", "dashboard")
_LINE = 120

_TIMEOUT_S = 60
_POLL_S = 2

SavedObject = dict[str, Any]


class NotFoundError(DatastreamError):
    """Kibana answers 404: it does not have what the path names."""


class Key(NamedTuple):
    """What names a saved object."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


@dataclass(frozen=True)
class Imported:
    """What an import did, by object."""

    imported: list[Key]
    left: list[Key]  # they exist, and may have been changed by a user


def objects_folder(vertical: str) -> Path:
    """Where the decoded objects of a vertical are."""
    return OBJECTS / vertical


def ndjson(vertical: str) -> Path:
    """The file that Kibana imports."""
    return HERE / f"{vertical}.ndjson"


def key(saved: SavedObject) -> Key:
    """The object's name; also of a reference, which has the same two members."""
    return Key(saved["type"], saved["id"])


def decode(saved: SavedObject) -> SavedObject:
    """The object with its JSON strings as plain JSON. The inverse of `encode`."""

    def plain(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            content = json.loads(value)
        except ValueError:
            return value
        # A scalar stays a string, so that what is encoded can be told from what is not.
        return _attributes(saved, content, plain) if isinstance(content, dict | list) else value

    return _changed(saved, plain)


def encode(saved: SavedObject) -> SavedObject:
    """The object as Kibana wants it, its JSON strings written as JavaScript does. The inverse of `decode`."""

    def string(value: Any) -> Any:
        inner = _attributes(saved, value, string)
        return _compact(inner) if isinstance(value, dict | list) else value

    return _changed(saved, string)


def _changed(saved: SavedObject, change: Callable[[Any], Any]) -> SavedObject:
    attributes = _attributes(saved, saved["attributes"], change)
    if saved["type"] == "index-pattern":
        attributes |= {name: change(attributes[name]) for name in _DATA_VIEW_STRINGS if name in attributes}
    return saved | {"attributes": attributes}


def _attributes(saved: SavedObject, value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy with every attribute changed that holds, or held, JSON in a string; at any depth."""
    if isinstance(value, list):
        return [_attributes(saved, item, change) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: change(item) if name.endswith(_JSON_SUFFIX) or name in _JSON_STRINGS else _attributes(saved, item, change)
        for name, item in value.items()
    }


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pretty(value: Any, indent: str = "") -> str:
    """JSON for people: keys in order, so that a difference is a change; what fits a line is on one."""
    line = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(indent) + len(line) <= _LINE or not value or not isinstance(value, dict | list):
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        inner = [f"{json.dumps(name, ensure_ascii=False)}: {pretty(value[name], deeper)}" for name in sorted(value)]
    else:
        inner = [pretty(item, deeper) for item in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{deeper}" + f",\n{deeper}".join(inner) + f"\n{indent}{end}"


def read(folder: Path) -> list[SavedObject]:
    """The decoded objects of a folder, each before those that refer to it.

    Raises:
        ConfigurationError: there are none, or a file is not JSON, no saved object or not named as its object.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            name = file_name(key(saved))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} is not a saved object of Kibana: {error!r}") from error
        if path.name != name:
            raise ConfigurationError(f"{path} holds {key(saved)}, so it is to be named {name}.")
        found.append(saved)
    if not found:
        raise ConfigurationError(f"{folder} holds no saved objects. Fetch it from git again.")
    return ordered(found)


def ordered(objects: Iterable[SavedObject]) -> list[SavedObject]:
    """The objects by type, each type after those that it refers to, and by id."""

    def position(saved: SavedObject) -> tuple[int, Key]:
        return _ORDER.index(saved["type"]) if saved["type"] in _ORDER else -1, key(saved)

    return sorted(objects, key=position)


def file_name(name: Key) -> str:
    return f"{name.type}.{quote(name.id, safe='')}.json"


def to_ndjson(objects: Iterable[SavedObject]) -> str:
    """Objects, decoded or not, as the file that Kibana imports: one encoded object a line."""
    return "".join(f"{_compact(encode(saved))}\n" for saved in objects)


def from_ndjson(text: str) -> list[SavedObject]:
    """The encoded objects of an export; its last line, a summary, is none."""
    # Not splitlines(): a string may hold U+2028, which JSON does not escape.
    lines = [json.loads(line) for line in text.split("\n") if line.strip()]
    return [line for line in lines if "type" in line]


def build(folder: Path, target: Path) -> list[SavedObject]:
    """Write the NDJSON file of a folder of decoded objects; returns those.

    Raises:
        ConfigurationError: as `read`.
    """
    objects = read(folder)
    target.write_text(to_ndjson(objects), encoding="utf-8", newline="\n")
    return objects


def write(objects: Iterable[SavedObject], folder: Path, target: Path) -> list[str]:
    """Make a folder hold these encoded objects and no others, decoded, and write its NDJSON file.

    Returns:
        Names of the files that were removed.
    """
    files = {file_name(key(saved)): pretty(own(decode(saved))) + "\n" for saved in objects}
    folder.mkdir(parents=True, exist_ok=True)
    removed = [path for path in sorted(folder.glob("*.json")) if path.name not in files]
    for path in removed:
        path.unlink()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
    build(folder, target)
    return [path.name for path in removed]


def own(saved: SavedObject) -> SavedObject:
    """The object without what only says when and where it was stored."""
    return {name: saved[name] for name in _KEPT if name in saved}


class Kibana:
    """The calls of Kibana's HTTP API that this project needs.

    Raises:
        ServiceUnavailableError: it does not answer, or is not ready.
        ConfigurationError: it does not let this user in.
        DatastreamError: it refuses what was sent.
    """

    def __init__(self, settings: Settings) -> None:
        self.address = settings.kibana_address.rstrip("/")
        self._session = make_local_session()
        self._session.auth = (USER, settings.elastic_password)
        self._session.headers["kbn-xsrf"] = "datastream"  # any value; without one, Kibana refuses to be changed

    def wait(self, timeout_s: float = WAIT_S) -> None:
        """Return once Kibana says that it is available."""
        attempts = Retrying(
            retry=retry_if_exception_type(ServiceUnavailableError),
            stop=stop_after_delay(timeout_s),
            wait=wait_fixed(_POLL_S),
        )
        try:
            attempts(self._check_available)
        except RetryError as error:
            why = error.last_attempt.exception()
            raise ServiceUnavailableError(f"{why} Gave up after {timeout_s:g} s.") from why

    def _check_available(self) -> None:
        status = self.call("GET", "/api/status").json()["status"]["overall"]
        # Degraded: a plugin has trouble, as the task manager has under load; saved objects work.
        if status["level"] not in ("available", "degraded"):
            raise self._unavailable(f"is {status['level']} ({status.get('summary', 'no reason given')})")

    def all_of(self, types: Iterable[str]) -> dict[Key, SavedObject]:
        """Every object of some types, encoded."""
        answer = self.call("POST", "/api/saved_objects/_export", json={"type": sorted(types)})
        return {key(saved): saved for saved in from_ndjson(answer.content.decode())}

    def with_references(self, root: Key) -> dict[Key, SavedObject]:
        """An object and all that it refers to, directly or not, encoded."""
        found: dict[Key, SavedObject] = {}
        missing = {root}
        while missing:
            body = {"objects": [name._asdict() for name in sorted(missing)], "includeReferencesDeep": True}
            answer = self.call("POST", "/api/saved_objects/_export", json=body)
            found |= {key(saved): saved for saved in from_ndjson(answer.content.decode())}
            if lost := missing - found.keys():
                names = ", ".join(map(str, sorted(lost)))
                raise DatastreamError(
                    f"Kibana at {self.address} has no {names}. `python -m infra.kibana import` brings it there."
                )
            # Kibana has followed them already; what it left out is asked for by name, so that nothing goes amiss.
            missing = {key(reference) for saved in found.values() for reference in saved["references"]} - found.keys()
        return found

    def import_ndjson(self, content: str, *, overwrite: bool) -> list[Key]:
        """Import a file; returns what was stored, and raises if Kibana names any error."""
        answer = self.call(
            "POST",
            "/api/saved_objects/_import",
            params={"overwrite": str(overwrite).lower()},
            files={"file": ("objects.ndjson", content.encode(), "application/ndjson")},
        ).json()
        if errors := answer.get("errors") or []:
            raise DatastreamError(
                f"Kibana at {self.address} refused {len(errors)} of the saved objects:\n"
                + "\n".join(f"  {error['type']}:{error['id']}: {_why(error['error'])}" for error in errors)
            )
        if not answer["success"]:
            raise DatastreamError(f"Kibana at {self.address} did not import the saved objects: {_compact(answer)}")
        return [key(result) for result in answer["successResults"]]

    def default_data_view(self, data_view: str) -> None:
        """Make a data view the default one, unless there is one."""
        self.call("POST", "/api/data_views/default", json={"data_view_id": data_view, "force": False})

    def call(self, method: str, path: str, **content: Any) -> requests.Response:
        """The answer to a request, unless it is an error."""
        try:
            answer = self._session.request(method, self.address + path, timeout=_TIMEOUT_S, **content)
        except requests.RequestException as error:
            raise self._unavailable(f"does not answer ({error})") from error
        if not answer.ok:
            self._refused(f"{method} {path}", answer)
        return answer

    def _refused(self, call: str, answer: requests.Response) -> NoReturn:
        status = f"{answer.status_code}: {answer.text[:500].strip()}"
        if answer.status_code in (401, 403):
            raise ConfigurationError(
                f"Kibana at {self.address} does not let user {USER} do {call} ({status}). "
                "Check ELASTIC_PASSWORD in .env."
            )
        if answer.status_code == 429 or answer.status_code >= 500:
            raise self._unavailable(f"answers {call} with {status}")
        if answer.status_code == 404:
            raise NotFoundError(f"Kibana at {self.address} does not know {call} ({status}).")
        raise DatastreamError(f"Kibana at {self.address} refuses {call} ({status}).")

    def _unavailable(self, what: str) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"Kibana at {self.address} {what}. Is it up (docker compose ps kibana), and are KIBANA_PORT and KIBANA_URL "
            "right?"
        )


def _why(error: dict[str, Any]) -> str:
    """What Kibana says is wrong with an object."""
    details = [f"{name} {_compact(value)}" for name, value in error.items() if name not in ("type", "message")]
    return "; ".join([error["type"], *([error["message"]] if "message" in error else []), *details])


def import_objects(kibana: Kibana, objects: list[SavedObject], *, overwrite: bool = False) -> Imported:
    """Bring decoded objects into Kibana. What exists there is left as it is, or overwritten if so wanted.

    Raises:
        DatastreamError: Kibana refuses an object; the text names each, and why.
    """
    if overwrite:
        return Imported(kibana.import_ndjson(to_ndjson(objects), overwrite=True), [])
    ours = {key(saved): saved for saved in objects}
    theirs = kibana.all_of({name.type for name in ours})
    missing = {name: saved for name, saved in ours.items() if name not in theirs}
    if missing:
        # Their own versions of what the missing ones refer to go along, so that the file is complete in itself.
        along = _closure(missing, theirs)
        lines = to_ndjson(ordered([*missing.values(), *along.values()]))
        kibana.import_ndjson(lines, overwrite=bool(along))
    return Imported(list(missing), [name for name in ours if name in theirs])


def _closure(roots: dict[Key, SavedObject], known: dict[Key, SavedObject]) -> dict[Key, SavedObject]:
    """Those of the known objects that the roots refer to, directly or not."""
    found: dict[Key, SavedObject] = {}
    left = list(roots.values())
    while left:
        for name in map(key, left.pop()["references"]):
            if name in known and name not in found:
                found[name] = own(known[name])
                left.append(known[name])
    return found
