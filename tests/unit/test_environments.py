"""Commands with the packages of a requirement set: real processes that end in every way a task can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from jobs import environments, tether
from jobs.environments import Command, find_interpreter, make_settings_variables
from jobs.errors import CommandError, ConfigurationError
from jobs.settings import Settings
from tests.testkit.wait import until

# Starts a child that ignores SIGTERM, as a hanging command may.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
child.wait()
"""

STARTER = f"""
import sys
from jobs.environments import Command
Command([sys.executable, "-c", {STUBBORN!r}], {{}}).run(lambda line: print(line, flush=True))
"""


class ToySettings(Settings):
    """The settings of a toy vertical."""

    topic_settings: ClassVar[tuple[str, ...]] = ()

    toy_rate: int = 7
    toy_password: str = "secret"  # noqa: S105


def run(code: str, **variables: str) -> list[str]:
    lines: list[str] = []
    Command([sys.executable, "-c", code], variables).run(lines.append)
    return lines


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_output_is_logged_line_by_line_while_the_command_runs(tmp_path: Path) -> None:
    """The command goes on only after its first line was logged."""
    logged = tmp_path / "logged"
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        logged.touch()

    code = f"""
import pathlib, sys
print("one")
while not pathlib.Path({str(logged)!r}).exists(): pass
print("two", file=sys.stderr)
print("three")
"""
    Command([sys.executable, "-c", code], {}).run(log)
    assert lines == ["one", "two", "three"]


def test_output_in_another_encoding_is_logged_escaped() -> None:
    assert run(r"import sys; sys.stdout.buffer.write(b'caf\xe9\n')") == [r"caf\xe9"]


def test_a_failed_command_names_its_exit_code_and_the_end_of_its_output() -> None:
    with pytest.raises(CommandError, match=r"exit code 3.*\n  line 11\n(.*\n)*  line 20$") as caught:
        run("for number in range(1, 21): print('line', number)\nraise SystemExit(3)")
    assert caught.value.code == 3
    assert "line 10\n" not in str(caught.value)


def test_a_command_ended_by_a_signal_has_the_exit_code_of_a_shell() -> None:
    with pytest.raises(CommandError) as caught:
        run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert caught.value.code == 128 + signal.SIGSEGV


def test_a_command_inherits_only_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates.pem")
    names = set(run("import os; print('\\n'.join(os.environ))", SHOP_REGION="given"))
    assert {"SSL_CERT_FILE", "SHOP_REGION", "PATH"} <= names
    assert not {"AIRFLOW__CORE__FERNET_KEY", "PYTHONPATH"} & names


def test_a_vertical_hands_over_its_settings_and_no_password_of_the_core() -> None:
    variables = make_settings_variables(ToySettings, ToySettings(_env_file=None, kafka_port=1234))
    assert variables["TOY_RATE"] == "7"
    assert variables["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:1234"
    assert not [name for name in variables if "PASSWORD" in name]


def test_a_set_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(
        ConfigurationError, match=r"requirements/tasks/toy\.txt.*make \.venv-toy/\.stamp.*compose build"
    ):
        find_interpreter("toy")


@pytest.mark.parametrize("is_image", [False, True])
def test_the_interpreter_of_a_set_is_found_in_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_image: bool
) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path / "project")
    monkeypatch.setattr(environments, "IMAGE_FOLDER", tmp_path / "image")
    folder = tmp_path / "image" / "toy" if is_image else tmp_path / "project" / ".venv-toy"
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert find_interpreter("toy") == python


@pytest.fixture
def short_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL soon after SIGTERM."""
    copy = tmp_path / "tether.py"
    copy.write_text(Path(tether.__file__).read_text().replace(f"GRACE_S = {tether.GRACE_S}", "GRACE_S = 0.2"))
    monkeypatch.setattr(tether, "__file__", str(copy))


@pytest.mark.usefixtures("short_grace")
def test_a_command_that_ignores_sigterm_is_killed_with_its_children() -> None:
    command = Command([sys.executable, "-c", STUBBORN], {})
    pids: list[int] = []

    def end_at_first_line(line: str) -> None:
        pids.append(int(line))
        command.end()

    with pytest.raises(CommandError):
        command.run(end_at_first_line)
    until(lambda: not is_alive(pids[0]), "the end of the command's child")


@pytest.mark.usefixtures("short_grace")
def test_an_error_while_logging_ends_the_command() -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise TimeoutError("as Airflow's execution timeout does")

    with pytest.raises(TimeoutError):
        Command([sys.executable, "-c", STUBBORN], {}).run(fail)
    until(lambda: not is_alive(pids[0]), "the end of the command's child")


def test_kill_9_of_the_task_ends_the_command_and_its_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(environments.ROOT)},
    ) as task:
        assert task.stdout is not None
        pid = int(task.stdout.readline())
        assert is_alive(pid)
        task.kill()
    until(lambda: not is_alive(pid), "the end of the command's child")
