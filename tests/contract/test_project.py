"""Rules that hold for the whole repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from jobs.kafka.topics import load_topics
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT, Settings

TOPICS = ROOT / "infra" / "kafka" / "topics" / "rides.yml"
DAY_MS = 24 * 60 * 60 * 1000
TEXT = {
    *(
        ".py",
        ".md",
        ".html",
        ".ndjson",
        ".toml",
        ".yml",
        ".yaml",
        ".json",
        ".sql",
        ".sh",
        ".tf",
        ".txt",
        ".in",
        ".java",
        ".lock",
    ),
    *(".example", ".env", ".properties", ".cfg", ".editorconfig", ".gitattributes", ".gitignore", ".dockerignore"),
}


@cache
def tracked() -> list[Path]:
    """Every file of the repository, or every file that is not generated where there is no git."""
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return [path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    generated = re.compile(r"\.git|\.local|\.venv.*|__pycache__|\.(mypy|ruff|pytest)_cache|\.hypothesis")
    return [path for path in ROOT.rglob("*") if path.is_file() and not any(map(generated.fullmatch, path.parts))]


def texts() -> list[Path]:
    return [path for path in tracked() if path.suffix in TEXT or path.name in {*TEXT, "Makefile", "Dockerfile", "run"}]


def modules(folder: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / folder)]


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("producer", {"airflow", "jobs", "infra", "hooks", "operators", "tests"}),
        ("airflow/plugins", {"producer", "infra", "tests", "dag_compute_cost", "dag_index_and_export"}),
        ("airflow/dags", {"producer", "infra", "tests"}),
    ],
)
def test_producer_and_airflow_folders_import_only_lower_layers(folder: str, forbidden: set[str]) -> None:
    imported = {str(path.relative_to(ROOT)): imports(path) & forbidden for path in modules(folder)}
    assert imported, f"no modules in {folder}"
    assert not {name: packages for name, packages in imported.items() if packages}


def test_dags_define_no_functions_and_do_not_import_jobs() -> None:
    for path in modules("airflow/dags"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert functions == [], path
        assert "jobs" not in imports(path), path


def test_the_command_line_starts_without_arrow() -> None:
    """kafka-init, which makes the topics in Docker, has 64 MiB."""
    program = "import sys, jobs.__main__; sys.exit('pyarrow' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_jobs_can_be_imported_without_airflow() -> None:
    code = (
        "import sys, pkgutil, importlib, jobs\n"
        "for module in pkgutil.walk_packages(jobs.__path__, 'jobs.'):\n"
        "    if not any(word in module.name for word in ('spark', 'scraper.', '__main__')):\n"
        "        importlib.import_module(module.name)\n"
        "sys.exit('airflow' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_the_airflow_folder_does_not_hide_the_package() -> None:
    assert not (ROOT / "airflow" / "__init__.py").exists()
    assert not (ROOT / "airflow" / "plugins" / "__init__.py").exists()


def test_topics_have_the_designed_settings() -> None:
    topics = {topic.setting: topic for topic in load_topics(TOPICS, RidesSettings(_env_file=None))}
    assert {setting: topic.name for setting, topic in topics.items()} == {
        "RAW_TOPIC": "rides_raw",
        "RESULT_TOPIC": "rides_result",
        "DLQ_TOPIC": "rides_dlq",
    }
    assert {topic.partitions for topic in topics.values()} == {6}
    stamps = {setting: topic.config.get("message.timestamp.type") for setting, topic in topics.items()}
    assert stamps == {"RAW_TOPIC": "LogAppendTime", "RESULT_TOPIC": None, "DLQ_TOPIC": None}, "what others write to"
    days = {setting: int(topic.config["retention.ms"]) / DAY_MS for setting, topic in topics.items()}
    assert days == {"RAW_TOPIC": 7, "RESULT_TOPIC": 7, "DLQ_TOPIC": 14}
    largest = {setting: int(topic.config["max.message.bytes"]) for setting, topic in topics.items()}
    assert largest["RAW_TOPIC"] == largest["RESULT_TOPIC"] >= 2**20
    assert largest["DLQ_TOPIC"] >= 2 * largest["RAW_TOPIC"], "the largest bad message and its headers fit"


def test_topics_take_their_names_from_settings() -> None:
    names = {"RAW_TOPIC": "a", "RESULT_TOPIC": "b", "DLQ_TOPIC": "c"}
    settings = RidesSettings(_env_file=None, raw_topic="a", result_topic="b", dlq_topic="c")
    topics = load_topics(TOPICS, settings)
    assert {topic.setting: topic.name for topic in topics} == names


@pytest.mark.parametrize(
    "text", ["topics: [{name: a}]", "topics: 1", "{", "topics: [{setting: A, name: a, partitions: many, config: {}}]"]
)
def test_an_invalid_topic_list_is_rejected_by_file_name(tmp_path: Path, text: str) -> None:
    from jobs.errors import ConfigurationError

    file = tmp_path / "topics.yml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(str(file))):
        load_topics(file, Settings())


def test_no_image_uses_the_latest_tag() -> None:
    named = re.compile(r"(?i)(?:^\s*(?:-\s*)?image:\s*|^FROM\s+)\S*:latest\b|[\w/.-]+:latest\b")
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".yml", ".yaml", ".toml", ".sh", ".tf"} or path.name.startswith(("Dockerfile", "Makefile"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if named.search(line)
    ]
    assert places == []


def test_text_files_are_utf8_with_line_feeds() -> None:
    assert len(texts()) > 50
    for path in texts():
        content = path.read_bytes()
        content.decode("utf-8")
        assert b"\r" not in content, path
        assert not content or content.endswith(b"\n"), f"{path} does not end with a line feed"


def test_requirements_name_no_package_index() -> None:
    files = [path for path in tracked() if "requirements" in str(path.relative_to(ROOT)) and path.suffix == ".txt"]
    assert files
    for path in files:
        assert not re.search(r"(?m)^\s*(-i|--index-url|--extra-index-url|--find-links)\b|https?://", path.read_text())


def test_make_targets_named_in_texts_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    assert "demo" in targets
    for path in texts():
        named = set(re.findall(r"`make ([a-z][a-z-]+)", path.read_text(encoding="utf-8")))
        assert named <= targets, path


def test_tests_named_in_texts_exist() -> None:
    for path in (path for path in tracked() if path.suffix == ".md"):
        for file, name in re.findall(r"\b(tests/[\w/]+\.py)(?:::(test_\w+))?", path.read_text(encoding="utf-8")):
            assert (ROOT / file).exists(), f"{path}: {file}"
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") or not name, f"{path}: {file}::{name}"


# These run Docker, run in a container, or pass on an environment that is already built.
WITH_INHERITED_ENVIRONMENT = {
    "infra/docker/compose.py",
    "infra/docker/preflight.py",
    "infra/cleanup.py",
    "jobs/tether.py",
}


def test_every_process_gets_an_environment_that_is_built_for_it() -> None:
    """Variables of another project in the user's shell would break it."""
    starts = re.compile(r"(subprocess|os)\.(run|Popen|call|check_call|check_output|exec\w+|spawn\w+|system|popen)")
    found = 0
    for path in [*modules("jobs"), *modules("infra")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and starts.fullmatch(ast.unparse(node.func)):
                found += 1
                has_environment = ast.unparse(node.func) in ("os.execve", "os.execvpe") or any(
                    keyword.arg == "env" for keyword in node.keywords
                )
                name = str(path.relative_to(ROOT))
                assert has_environment or name in WITH_INHERITED_ENVIRONMENT, f"{name}:{node.lineno}"
    assert found > 10


def test_only_the_tests_of_dags_import_airflow_into_their_process() -> None:
    """Airflow reads its environment once, when it is imported; test_dags.py sets that of its stack before."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if not path.is_relative_to(ROOT / "tests" / "notes")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.split(".")[0] in ("airflow", "operators", "hooks", "callbacks")
    }
    assert importing == {"tests/integration/core/test_dags.py"}
