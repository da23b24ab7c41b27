"""ScoreNotes' work: staged messages of notes_raw in, staged outcomes out."""

from __future__ import annotations

import msgspec
import pyarrow as pa

from jobs.files import Folder, read_chunk
from jobs.kafka.staged import OUTCOME_SCHEMA, Manifest, make_outcome_batch
from jobs.parallel import prefetch


class Note(msgspec.Struct, frozen=True, gc=False):
    """A message of notes_raw."""

    note_id: str
    text: str


_decode = msgspec.json.Decoder(Note).decode


def score(manifest: Manifest, folder: Folder) -> tuple[str, Manifest]:
    """Score every staged note.

    Returns:
        URL and content of a manifest whose chunks hold outcomes (`jobs.kafka.staged.OUTCOME_SCHEMA`).
    """
    chunks = []
    for chunk, messages in prefetch(lambda chunk: read_chunk(chunk.url), manifest.chunks):
        url = folder.write_chunk(chunk.partition, chunk.first, [score_notes(messages)], OUTCOME_SCHEMA)
        chunks.append(msgspec.structs.replace(chunk, url=url))
    scored = msgspec.structs.replace(manifest, chunks=tuple(chunks))
    return folder.write_manifest(scored), scored


def score_notes(messages: pa.RecordBatch) -> pa.RecordBatch:
    """The outcomes of messages (MESSAGE_SCHEMA), row by row."""
    keys, values, reasons, texts = [], [], [], []
    for message in messages["value"].to_pylist():
        key = value = reason = text = None
        try:
            note = _decode(message or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason, text = "invalid_note", str(error)
        else:
            key = note.note_id.encode()
            value = msgspec.json.encode(msgspec.structs.asdict(note) | {"mood": float(note.text.count("!"))})
        keys.append(key)
        values.append(value)
        reasons.append(reason)
        texts.append(text)
    return make_outcome_batch(messages, keys=keys, values=values, reasons=reasons, texts=texts)
