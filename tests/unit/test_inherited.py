"""The environment of the processes that we start, with the variables that broke them on users' machines."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import pytest
import requests

from jobs.inherited import adopt_proxies, make_environment, read_proxies
from jobs.settings import ROOT

PROXY = "http://proxy.corp:3128"


def test_only_listed_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"HOME": "/home/me", "TZ": "Europe/Paris", "SSL_CERT_FILE": "/ca.pem", "CLOUDSDK_CORE_PROJECT": "mine"}
    dropped = (
        *("PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONIOENCODING", "PIP_USER", "PIP_TARGET", "VIRTUAL_ENV"),
        *("AIRFLOW_HOME", "AIRFLOW__CORE__EXECUTOR", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"),
        *("KAFKA_OPTS", "ES_JAVA_OPTS", "LD_PRELOAD", "AWS_SECRET_ACCESS_KEY"),
    )
    for name, value in {**kept, **dict.fromkeys(dropped, "x")}.items():
        monkeypatch.setenv(name, value)
    environment = make_environment({"GIVEN": "1"})
    assert environment.items() >= {**kept, "GIVEN": "1"}.items()
    assert not environment.keys() & set(dropped)


def test_an_empty_variable_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's clients read an empty GOOGLE_APPLICATION_CREDENTIALS as a file without a name."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in make_environment()


def test_a_process_writes_utf8_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "fr_FR.ISO-8859-1")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    code = "import locale, sys; print(sys.stdout.encoding, locale.getpreferredencoding(), sys.getfilesystemencoding())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=make_environment(), capture_output=True, text=True, check=True
    )
    assert {word.lower().replace("-", "") for word in done.stdout.split()} == {"utf8"}


def test_a_process_without_a_name_and_a_path_gets_both() -> None:
    code = """
import getpass, os
os.environ.clear()
from jobs.inherited import make_environment
os.environ.update(make_environment())
print(os.environ["PATH"], getpass.getuser())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [os.defpath, str(os.getuid())], done.stderr


@pytest.mark.parametrize(
    ("variables", "proxies"),
    [
        ({}, {}),
        ({"NO_PROXY": "localhost"}, {}),
        ({"HTTP_PROXY": PROXY}, {"HTTP_PROXY": PROXY}),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://old:1"}, {"HTTPS_PROXY": PROXY}),
        ({"HTTP_PROXY": "proxy.corp:3128"}, {"HTTP_PROXY": PROXY}),
        ({"ALL_PROXY": "socks5://proxy:1080"}, {"ALL_PROXY": "socks5://proxy:1080"}),
        ({"all_proxy": "socks://proxy:1080/"}, {"ALL_PROXY": "socks5h://proxy:1080/"}),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": "ftp://proxy:21"}, {"HTTP_PROXY": PROXY}),
        ({"HTTP_PROXY": "http://"}, {}),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "a.corp, *"}, {}),
    ],
)
def test_proxies_are_read_as_curl_does(variables: dict[str, str], proxies: dict[str, str]) -> None:
    expected = proxies | {name.lower(): url for name, url in proxies.items()}
    if proxies:
        direct = "127.0.0.1,localhost,::1"
        expected |= {"NO_PROXY": direct, "no_proxy": direct}
    assert read_proxies(variables) == expected


# Every form that programs accept, and some that only look like one.
NO_PROXY = (
    "localhost,127.0.0.1,127.0.0.0/8,10.0.0.0/8,::1,[::1],fd00::/8,fe80::1%eth0,.corp,*.corp,a.corp:8080,"
    "<local>,169.254.0.0/16,,https://x.corp,bad host,2001:db8::1,*foo*,host:port"
)


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("url", [PROXY, "socks5://proxy.corp:1080", "socks://proxy.corp:1080", "proxy.corp:3128"])
def test_clients_reach_local_hosts_directly_and_others_by_the_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str, url: str
) -> None:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(proxy, url)
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", make_environment())
        client = httpx.Client()
        session = requests.Session()
        remote = "http://a.com" if proxy == "HTTP_PROXY" else "https://a.com"
        for host in ("127.0.0.1:8081", "localhost:4443", "[::1]:9200", "x.corp"):
            assert client._transport_for_url(httpx.URL(f"http://{host}/")) is client._transport, host
            assert not session.merge_environment_settings(f"http://{host}/", {}, None, None, None)["proxies"], host
        assert client._transport_for_url(httpx.URL(remote)) is not client._transport
        assert session.merge_environment_settings(remote, {}, None, None, None)["proxies"]


def test_a_command_adopts_the_same_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"ALL_PROXY": "socks://proxy:1080", "NO_PROXY": "fd00::/8,a.corp", "KEPT": "1"}
    monkeypatch.setattr(os, "environ", environment)
    adopt_proxies()
    direct = "a.corp,127.0.0.1,localhost,::1"
    names = {"ALL_PROXY": "socks5h://proxy:1080", "NO_PROXY": direct}
    assert environment == {"KEPT": "1", **names, **{name.lower(): value for name, value in names.items()}}
