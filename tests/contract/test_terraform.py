"""Terraform files, docs/gcp.md, code and SQL agree. Nothing here connects to Google."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.rides.transform import SINK_SCHEMA
from jobs.settings import ROOT
from jobs.zones.vertical import ZonesSettings

TERRAFORM = ROOT / "infra" / "terraform"
SQL = ROOT / "infra" / "bigquery"
GUIDE = (ROOT / "docs" / "gcp.md").read_text(encoding="utf-8")
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(TERRAFORM.glob("*.tf"))}
EVERYTHING = "\n".join(FILES.values())
COLUMNS = json.loads((TERRAFORM / "rides_schema.json").read_text(encoding="utf-8"))

# BigQuery's type of each Parquet type: the name in the API, the name in SQL.
TYPES = {
    pa.string(): ("STRING", "STRING"),
    pa.timestamp("us", "UTC"): ("TIMESTAMP", "TIMESTAMP"),
    pa.float64(): ("FLOAT", "FLOAT64"),
    pa.int32(): ("INTEGER", "INT64"),
    pa.int64(): ("INTEGER", "INT64"),
}


def block(kind: str, *names: str) -> str:
    """The text of a top-level block, for example block("resource", "google_storage_bucket", "rides")."""
    head = " ".join([kind, *(f'"{name}"' for name in names)])
    match = re.search(rf"(?ms)^{re.escape(head)} \{{\n(.*?)^\}}$", EVERYTHING)
    assert match, f"there is no {head}"
    return match[1]


def argument(text: str, name: str) -> str:
    match = re.search(rf"(?m)^\s+{name}\s*= (.+)$", text)
    assert match, f"there is no {name}"
    return str(match[1])


def fenced(language: str, first_words: str) -> str:
    """The guide's block of code in a language that starts with these words."""
    blocks = [text for text in re.findall(rf"(?ms)^```{language}\n(.*?)^```$", GUIDE) if text.startswith(first_words)]
    assert len(blocks) == 1, first_words
    return str(blocks[0])


def shown_after(code: str) -> str:
    match = re.search(r"```\n\n```text\n(.*?)^```$", GUIDE[GUIDE.index(code) :], re.DOTALL | re.MULTILINE)
    assert match
    return match[1]


VARIABLES = re.findall(r'(?m)^variable "(\w+)"', EVERYTHING)


def test_bigquery_columns_match_the_parquet_schema() -> None:
    assert [column["name"] for column in COLUMNS] == SINK_SCHEMA.names
    for column, field in zip(COLUMNS, SINK_SCHEMA, strict=True):
        assert column["type"] == TYPES[field.type][0], field.name
        assert column["mode"] == ("NULLABLE" if field.nullable else "REQUIRED"), field.name
        assert column["description"]
    assert "${path.module}/rides_schema.json" in FILES["bigquery.tf"]
    for table in ("external", "native"):
        assert "local.columns" in block("resource", "google_bigquery_table", table)


def test_terraform_tables_match_the_playbook() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in SQL.glob("*.sql")}
    if not scripts:
        pytest.skip("infra/bigquery has no SQL")
    everything = "\n".join(scripts.values())
    external = block("resource", "google_bigquery_table", "external")
    native = block("resource", "google_bigquery_table", "native")

    name = argument(external, "table_id").strip('"')
    assert re.search(rf"EXTERNAL TABLE \S*\b{name}\b", everything)
    assert "gs://${bucket}/${prefix}*.parquet" in everything
    assert '"gs://${google_storage_bucket.rides.name}/${local.prefix}/*.parquet"' in external

    name = argument(native, "table_id").strip('"')
    created = re.search(
        rf"CREATE TABLE IF NOT EXISTS \S*\b{name}\b \((.*?)\)\s*PARTITION BY DATE\((\w+)\)\s*CLUSTER BY (\w+)",
        everything,
        re.DOTALL,
    )
    assert created, name
    columns = re.findall(r"(\w+) (\w+)( NOT NULL)?", created[1])
    assert [(column, kind) for column, kind, _ in columns] == [
        (field.name, TYPES[field.type][1]) for field in SINK_SCHEMA
    ]
    assert all(required for _, _, required in columns)
    assert argument(native, "field") == f'"{created[2]}"'
    assert argument(native, "clustering") == f'["{created[3]}"]'
    assert argument(native, "type") == '"DAY"'

    uri = argument(block("output", "reference_uri"), "value").strip('"')
    assert uri.replace("${google_storage_bucket.rides.name}", "${bucket}") in everything


def test_bucket_and_dataset_are_in_the_same_location() -> None:
    bucket = block("resource", "google_storage_bucket", "rides")
    dataset = block("resource", "google_bigquery_dataset", "rides")
    assert argument(bucket, "location") == argument(dataset, "location") == "var.location"
    assert argument(block("variable", "location"), "default") == '"EU"'


def test_the_bucket_is_private_and_labelled() -> None:
    bucket = block("resource", "google_storage_bucket", "rides")
    assert argument(bucket, "uniform_bucket_level_access") == "true"
    assert argument(bucket, "public_access_prevention") == '"enforced"'
    assert argument(bucket, "labels") == "var.labels"
    assert argument(bucket, "force_destroy") == "var.force_destroy"
    assert "allUsers" not in EVERYTHING
    assert "allAuthenticatedUsers" not in EVERYTHING


@pytest.mark.parametrize("switch", ["create_key", "force_destroy"])
def test_dangerous_switches_are_off_by_default(switch: str) -> None:
    assert argument(block("variable", switch), "default") == "false"


def test_a_key_is_created_only_on_request_and_never_printed() -> None:
    for kind, name in [
        ("google_service_account_key", "datastream"),
        ("google_secret_manager_secret", "key"),
        ("google_secret_manager_secret_version", "key"),
    ]:
        assert argument(block("resource", kind, name), "count") == "var.create_key ? 1 : 0"
    assert "private_key" not in FILES["outputs.tf"]
    assert argument(block("variable", "deletion_protection"), "default") == "true"


def test_the_service_account_has_only_the_listed_roles() -> None:
    member = "google_service_account.datastream.member"
    granted = re.findall(r'(?ms)^resource "(google_\w+_iam_\w+)" "\w+" \{\n(.*?)^\}$', EVERYTHING)
    grants = {(kind, argument(text, "role")) for kind, text in granted if member in text}
    assert grants == {
        ("google_storage_bucket_iam_member", "google_project_iam_custom_role.objects.name"),
        ("google_bigquery_dataset_iam_member", '"roles/bigquery.dataEditor"'),
        ("google_project_iam_member", '"roles/bigquery.jobUser"'),
    }
    assert not re.search(r"roles/(owner|editor|\w+\.admin|storage\.objectAdmin)\b", EVERYTHING)
    role = block("resource", "google_project_iam_custom_role", "objects")
    permissions = re.findall(r'"(storage\.[\w.]+)"', role)
    assert permissions == [
        "storage.buckets.get",
        *(f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")),
    ]
    assert f"--permissions={','.join(permissions)}" in GUIDE


def test_the_guide_enables_the_same_apis_as_terraform() -> None:
    services = set(re.findall(r'"(\w+\.googleapis\.com)"', FILES["main.tf"]))
    optional = {"secretmanager.googleapis.com", "billingbudgets.googleapis.com"}
    enabled = re.search(r"gcloud services enable ((?:[^\n]*\\\n)*[^\n]*)", GUIDE)
    assert enabled
    assert set(re.findall(r"\w+\.googleapis\.com", enabled[1])) == services - optional
    assert optional < services


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_described_and_used(name: str) -> None:
    text = block("variable", name)
    assert len(argument(text, "description")) > 20
    assert argument(text, "type")
    assert re.search(rf"\bvar\.{name}\b", EVERYTHING.replace(f'variable "{name}" {{\n{text}}}', ""))
    if argument(text, "type") != "bool":
        assert "error_message" in text


@pytest.mark.parametrize("text", ["terraform.tfvars.example", "tests/plan.tftest.hcl", "guide"])
def test_variables_named_in_examples_and_guide_exist(text: str) -> None:
    if text == "guide":
        named = set(re.findall(r"`(\w+) = ", GUIDE))
    elif text.endswith(".hcl"):
        content = (TERRAFORM / text).read_text(encoding="utf-8")
        named = {
            name for part in re.findall(r"(?ms)variables \{(.*?)\}", content) for name in re.findall(r"(\w+) +=", part)
        }
        named -= {"App"}
    else:
        named = set(re.findall(r"(?m)^(?:# )?(\w+) += ", (TERRAFORM / text).read_text(encoding="utf-8")))
    assert named
    assert named <= set(VARIABLES)


def test_terraform_defaults_match_the_settings() -> None:
    defaults = ZonesSettings(_env_file=None)
    for variable, setting in [
        ("gcs_prefix", "gcs_prefix"),
        ("dataset_id", "bigquery_dataset"),
        ("location", "bigquery_location"),
    ]:
        value = argument(block("variable", variable), "default").strip('"')
        assert getattr(defaults, setting, value) == value


def test_the_env_output_names_existing_settings() -> None:
    lines = dict(re.findall(r"(?m)^    ([A-Z_]+)=(.*)$", block("output", "env")))
    assert list(lines) == [
        *("GCS_BUCKET", "GCS_PREFIX", "GOOGLE_APPLICATION_CREDENTIALS"),
        *("BIGQUERY_PROJECT", "BIGQUERY_DATASET", "BIGQUERY_LOCATION"),
    ]
    known = {name.upper() for name in ZonesSettings.model_fields}
    if "BIGQUERY_PROJECT" not in known:
        known |= {"BIGQUERY_PROJECT", "BIGQUERY_DATASET", "BIGQUERY_LOCATION"}
    assert set(lines) <= known
    key = lines["GOOGLE_APPLICATION_CREDENTIALS"]
    assert f"infra/{key.removeprefix('./')}" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    example = fenced("ini", "GCS_BUCKET=")
    assert re.findall(r"(?m)^([A-Z_]+)=", example) == list(lines)
    assert f"GOOGLE_APPLICATION_CREDENTIALS={key}\n" in example


def test_bucket_prefixes_do_not_overlap() -> None:
    rides, staging = (
        argument(block("variable", name), "default").strip('"') for name in ("gcs_prefix", "staging_prefix")
    )
    for folder in (staging, "reference/"):
        assert not folder.startswith(rides)
        assert not rides.startswith(folder)


def test_the_costs_in_the_guide_are_printed_by_its_script(tmp_path: Path) -> None:
    code = fenced("python", "# cost.py")
    assert run(code, tmp_path) == shown_after(code)


def test_the_sizes_in_the_guide_are_measured_by_its_script(tmp_path: Path) -> None:
    code = fenced("python", "# parquet_size.py")
    shown, measured = (
        {int(rides): int(size.replace(",", "")) for rides, size in re.findall(r"(\d+) rides +([\d,]+) bytes", text)}
        for text in (shown_after(code), run(code, tmp_path))
    )
    assert len(shown) == 10
    # Other versions of zstd or Arrow may compress a little better.
    assert measured == {rides: pytest.approx(size, rel=0.05) for rides, size in shown.items()}
    assumed = re.search(r"(?m)^PARQUET = \{(.*)\}", fenced("python", "# cost.py"))
    assert assumed
    used = {int(rides.replace("_", "")): int(size) for rides, size in re.findall(r"([\d_]+): (\d+)", assumed[1])}
    assert used == {rides: round(size / rides) for rides, size in shown.items()}


def run(code: str, folder: Path) -> str:
    file = folder / "script.py"
    file.write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "producer")])
    result = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


TOOL = next((tool for tool in ("terraform", "tofu") if shutil.which(tool)), None)
QUIET = {name: value for name, value in os.environ.items() if name != "TF_CLI_CONFIG_FILE"} | {
    "CHECKPOINT_DISABLE": "1"
}


@pytest.mark.skipif(TOOL is None, reason="neither terraform nor tofu is on the PATH")
def test_terraform_files_are_formatted() -> None:
    terraform("fmt", "-check", "-diff", "-recursive")


@pytest.mark.skipif(
    TOOL is None or not (TERRAFORM / ".terraform" / "providers").is_dir(), reason="`terraform init` was not run"
)
@pytest.mark.parametrize("command", ["validate", "test"])
def test_terraform_files_validate_and_plan(command: str) -> None:
    terraform(command)


def terraform(*arguments: str) -> None:
    result = subprocess.run(
        [str(TOOL), *arguments, "-no-color"],
        cwd=TERRAFORM,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=QUIET,
    )
    assert result.returncode == 0, result.stdout + result.stderr
