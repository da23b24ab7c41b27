"""The plugins with the options that the stand-in knows, and the fields of an event."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import msgspec

from jobs.sinks.documents import Document

Event = dict[str, Any]


@cache
def _split(field: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[([^\]]+)\]", field)) or (field,)


def get_field(event: Event, field: str) -> Any:
    """The value of a field such as [log][level]; None if it is missing."""
    value: Any = event
    for name in _split(field):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def set_field(event: Event, field: str, value: Any) -> None:
    *parents, name = _split(field)
    for parent in parents:
        event = event.setdefault(parent, {})
    event[name] = value


def pop_field(event: Event, field: str) -> Any:
    """Remove a field; returns its value, None if it was missing."""
    *parents, name = _split(field)
    parent = get_field(event, f"[{']['.join(parents)}]") if parents else event
    return parent.pop(name, None) if isinstance(parent, dict) else None


def format_text(event: Event, text: str) -> str:
    """Replace %{[field]}, and %{+YYYY.MM.dd} by the day of the event in UTC. Missing fields stay as they are."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] == "+YYYY.MM.dd":
            return f"{event['@timestamp']:%Y.%m.%d}"
        value = get_field(event, match[1])
        return match[0] if value is None else str(value)

    return re.sub(r"%\{([^}]+)\}", value_of, text)


class Plugin(msgspec.Struct, forbid_unknown_fields=True):
    """Its fields are the options. It is called with an event, which it changes; inputs have only options."""


class File(Plugin):
    path: str
    sincedb_path: str
    start_position: Literal["beginning"]


class DeadLetterQueue(Plugin):
    path: str
    pipeline_id: str
    clean_consumed: bool


class Mutate(Plugin):
    rename: dict[str, str] = {}
    gsub: list[str] = []
    copy: dict[str, str] = {}
    add_field: dict[str, str] = {}
    remove_field: list[str] = []

    def __call__(self, event: Event) -> None:  # in Logstash's order, whatever the order in the file
        for old, new in self.rename.items():
            if (value := pop_field(event, old)) is not None:
                set_field(event, new, value)
        for field, pattern, replacement in zip(self.gsub[::3], self.gsub[1::3], self.gsub[2::3], strict=True):
            set_field(event, field, re.sub(pattern, replacement, get_field(event, field)))
        for source, target in self.copy.items():
            set_field(event, target, get_field(event, source))
        for field, text in self.add_field.items():
            set_field(event, field, format_text(event, text))
        for field in self.remove_field:
            pop_field(event, field)


class Truncate(Plugin):
    fields: list[str]
    length_bytes: int

    def __call__(self, event: Event) -> None:
        for field in self.fields:
            set_field(event, field, get_field(event, field).encode()[: self.length_bytes].decode(errors="ignore"))


class Fingerprint(Plugin):
    source: list[str]
    target: str
    method: Literal["SHA256"]

    def __call__(self, event: Event) -> None:
        for field in self.source:
            set_field(event, self.target, hashlib.sha256(get_field(event, field).encode()).hexdigest())


class Json(Plugin):
    source: str
    target: str

    def __call__(self, event: Event) -> None:
        try:
            set_field(event, self.target, msgspec.json.decode(get_field(event, self.source)))
        except (msgspec.DecodeError, RecursionError):
            event["tags"] = ["_jsonparsefailure"]


class Date(Plugin):
    match: list[str]
    target: Literal["@timestamp"]

    def __call__(self, event: Event) -> None:
        try:
            event[self.target] = datetime.fromisoformat(get_field(event, self.match[0])).astimezone(UTC)
        except ValueError:
            event["tags"] = ["_dateparsefailure"]


class Elasticsearch(Plugin):
    hosts: list[str]
    user: str
    password: str
    index: str
    document_id: str
    action: Literal["create"]
    data_stream: Literal["false"]
    ilm_enabled: Literal["false"]
    manage_template: Literal["false"]

    def __call__(self, event: Event) -> None:
        document = Document(format_text(event, self.index), format_text(event, self.document_id), event)
        event["@metadata"] |= {"output": self, "document": document}


PLUGINS: dict[str, dict[str, type[Plugin]]] = {
    "input": {"file": File, "dead_letter_queue": DeadLetterQueue},
    "filter": {"mutate": Mutate, "truncate": Truncate, "fingerprint": Fingerprint, "json": Json, "date": Date},
    "output": {"elasticsearch": Elasticsearch},
}
