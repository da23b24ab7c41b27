"""Folders and Arrow files, local or in a bucket.

Files are written under a temporary name and then renamed, so a file with its final name is complete.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
from pyarrow import fs

_MANIFEST = "manifest.json"


class Folder:
    """A folder with the URL file:///path or gs://bucket/path."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._path = fs.FileSystem.from_uri(self.url)

    def child(self, *names: str) -> Folder:
        """A folder below this one. Characters that a path cannot have become underscores."""
        return Folder("/".join([self.url, *(re.sub(r"^\.+|[^\w.:+-]", "_", name) for name in names)]))

    def contains(self, url: str) -> bool:
        """Whether a URL is below this folder."""
        own, other = urlsplit(self.url), urlsplit(url)
        # A query can change the server that a URL stands for.
        if (own.scheme, own.netloc) != (other.scheme, other.netloc) or other.query or other.fragment:
            return False
        try:
            path: str = fs.FileSystem.from_uri(url)[1]  # decodes %2e
        except ValueError:
            return False
        return posixpath.normpath(path) == path and path.startswith(f"{self._path}/")

    def write_table(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> str:
        """Write batches as an Arrow IPC file; returns its URL."""

        def write(stream: Any) -> None:
            with pa.ipc.new_file(stream, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)

        return self._write(f"{name}.arrow", write)

    def write_chunk(self, partition: int, first: int, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> str:
        """Write the chunk of a partition that starts at the offset `first`; returns its URL."""
        return self.write_table(f"{partition:05d}-{first:020d}", batches, schema)

    def write_manifest(self, manifest: msgspec.Struct) -> str:
        return self._write(_MANIFEST, lambda stream: stream.write(msgspec.json.encode(manifest)))

    def write_text(self, name: str, text: str) -> str:
        """Write a small file; returns its URL."""
        return self._write(name, lambda stream: stream.write(text.encode()))

    def read_text(self, name: str) -> str | None:
        """Read a file that `write_text` wrote; None if it does not exist."""
        try:
            with self._fs.open_input_stream(f"{self._path}/{name}") as stream:
                return bytes(stream.read()).decode()
        except FileNotFoundError:
            return None

    def _write(self, name: str, write: Callable[[Any], object]) -> str:
        self._fs.create_dir(self._path, recursive=True)
        temporary = f"{self._path}/.{name}.part"
        with self._fs.open_output_stream(temporary) as stream:
            write(stream)
        self._fs.move(temporary, f"{self._path}/{name}")
        return f"{self.url}/{name}"

    def delete(self) -> None:
        """Delete the folder and its content, if it exists."""
        if self._fs.get_file_info(self._path).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._path)

    def delete_all_but(self, kept: Folder) -> None:
        """Delete the folders below this one, except `kept`."""
        for entry in self._fs.get_file_info(fs.FileSelector(self._path, allow_not_found=True)):
            if entry.path != kept._path:
                self._fs.delete_dir(entry.path)


def read_batches(url: str) -> Iterator[pa.RecordBatch]:
    """Read an Arrow file batch by batch. A local file is memory-mapped, so nothing is copied."""
    filesystem, path = fs.FileSystem.from_uri(url)
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem = fs.LocalFileSystem(use_mmap=True)
    with filesystem.open_input_file(path) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def read_chunk(url: str) -> pa.RecordBatch:
    """Read an Arrow file as one batch."""
    return pa.concat_batches(list(read_batches(url)))
