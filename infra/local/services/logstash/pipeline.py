"""Compiles the pipeline files into functions. What the stand-in does not know is an error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml
from logstash_pipeline_parser import Pipeline
from logstash_pipeline_parser.tree import ParseError

from infra.local.services.logstash.plugins import PLUGINS, Event, get_field
from jobs.errors import ConfigurationError

Condition = Callable[[Event], bool]
Step = Callable[[Event], None]


class Compiled(NamedTuple):
    input: Any
    filter: Step
    output: Step


def read_pipelines(folder: Path) -> list[Compiled]:
    """The pipelines that config/pipelines.yml of a folder lists.

    Raises:
        ConfigurationError: a file does not parse, or has a plugin, an option or a condition that is not known.
    """
    entries = yaml.safe_load((folder / "config" / "pipelines.yml").read_text(encoding="utf-8"))
    return [read_pipeline(folder / "pipeline" / Path(entry["path.config"]).name) for entry in entries]


def read_pipeline(file: Path) -> Compiled:
    try:
        match Pipeline.from_file(file).parse():
            case [["input", [[name, body]]], ["filter", filters], ["output", outputs]]:
                source = _make_plugin("input", name, body)
                return Compiled(source, _compile("filter", filters), _compile("output", outputs))
        raise ConfigurationError("one input, a filter and an output section are needed, in this order")
    except (ParseError, ConfigurationError) as error:
        raise ConfigurationError(f"{file}: {str(error).strip()}") from error


def _compile(section: str, nodes: list[Any]) -> Step:
    """One function that runs the plugins of a section, with their conditions."""
    steps: list[list[tuple[Condition, Step]]] = []
    for name, body in nodes:
        if name in ("if", "else if"):
            branch = _compile_condition(body[:-1]), _compile(section, body[-1][0])
        else:
            branch = _always, _compile(section, body) if name == "else" else _make_plugin(section, name, body)
        if name.startswith("else"):
            steps[-1].append(branch)
        else:
            steps.append([branch])

    def run(event: Event) -> None:
        for branches in steps:
            if chosen := next((step for condition, step in branches if condition(event)), None):
                chosen(event)

    return run


def _is_true(value: Any) -> bool:
    return value not in (None, "", "false") and value is not False


def _always(_: Event) -> bool:
    return True


def _compile_condition(tokens: list[Any]) -> Condition:
    match tokens:
        case [[str(field)]]:
            return lambda event: _is_true(get_field(event, field))
        case [[str(field), "=~", str(pattern)]]:
            # Ruby's \z is Python's \Z. Only a text can match.
            regex = re.compile(pattern.replace(r"\z", r"\Z"), re.MULTILINE | re.ASCII)
            return lambda event: isinstance(text := get_field(event, field), str) and bool(regex.search(text))
        case [[str(first), "==", str(second)]] if second.startswith("["):
            return lambda event: bool(get_field(event, first) == get_field(event, second))
    raise ConfigurationError(f"the stand-in does not know the condition {tokens}")


def _make_plugin(section: str, name: str, body: list[Any]) -> Any:
    if name not in PLUGINS[section]:
        raise ConfigurationError(f"the stand-in has no {section} plugin {name!r}, only {', '.join(PLUGINS[section])}")
    try:
        return msgspec.convert({option: _read_value(value) for option, (value,) in body}, PLUGINS[section][name])
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{section} plugin {name}, as far as the stand-in knows it: {error}") from error


def _read_value(value: Any) -> Any:
    """A text with its variables replaced, a number, a list, or a mapping, which the parser gives as pairs."""
    match value:
        case [[_, _], *_]:
            return {key: _read_value(content) for key, (content,) in value}
        case list():
            return [_read_value(item) for item in value]
        case str() | Path():
            return re.sub(r"\$\{(\w+)(?::([^}]*))?\}", _read_variable, str(value))
    return value


def _read_variable(match: re.Match[str]) -> str:
    if (value := os.environ.get(match[1], match[2])) is None:
        raise ConfigurationError(f"the variable {match[1]} is not set and has no default")
    return value
