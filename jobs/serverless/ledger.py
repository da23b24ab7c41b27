"""The ledger of the serverless vertical: every record of the stream is in one place, counted in Kinesis and DynamoDB.

put = history + repeats + rejects (+ in flight), and the latest table has each city's newest item of the history.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec

from jobs.clients import Systems
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure
from jobs.serverless.aws import make_client, translate_errors
from jobs.serverless.deploy import MAPPING
from jobs.serverless.lambda_consumer import KEY
from jobs.serverless.places import Place, find_place
from jobs.serverless.stream import list_shards, read_shard
from jobs.serverless.tables import scan_items
from jobs.serverless.vertical import HISTORY, LATEST, QUEUE, REJECTS, STREAM, ServerlessSettings

SAMPLES = 5
SETTLE_S = 10.0
POLL_S = 0.25
# After this time the mapping gives a record up.
MAX_AGE_S = MAPPING["MaximumRecordAgeInSeconds"] + 60
KINESIS, DYNAMODB = "Kinesis", "DynamoDB"


class Ledger(verdict.Ledger, kw_only=True):
    """Counts of records and items.

    Attributes:
        put: records on the stream.
        history: those that are an item of the history; repeats: those whose observation another record has stored.
        rejects_by_reason: records among the rejects.
        in_flight: records behind the last one of their shard that is stored.
        given_up: messages in the queue of the mapping, each about a range of records.
        expired: items whose records retention has removed from the stream.
        cities: items of the latest table; outdated: those that are not the newest of the history.
        missing: sequence numbers of some lost records.
    """

    put: int
    history: int
    repeats: int
    rejects_by_reason: dict[str, int]
    in_flight: int
    given_up: int
    expired: int
    cities: int
    outdated: int
    missing: list[str]

    @property
    def is_in_progress(self) -> bool:
        return self.in_flight > 0

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure("put", self.put, KINESIS),
            Figure("history", self.history, DYNAMODB),
            Figure("repeats", self.repeats, KINESIS),
            Figure("rejects", sum(self.rejects_by_reason.values()), DYNAMODB),
            *(Figure(f"  {reason}", count, DYNAMODB) for reason, count in sorted(self.rejects_by_reason.items())),
            Figure("in flight", self.in_flight, KINESIS),
            Figure("cities in latest", self.cities, DYNAMODB),
            *([Figure("expired from the stream", self.expired, DYNAMODB)] if self.expired else []),
            *([Figure("given up by the mapping", self.given_up, "SQS")] if self.given_up else []),
        ]

    @property
    def notes(self) -> list[str]:
        notes = [f"missing: the record with the sequence number {sequence}" for sequence in self.missing]
        if self.given_up:
            notes.append(f"{QUEUE} names records that the mapping gave up: python -m jobs serverless redrive")
        return notes


class _Seen(msgspec.Struct):
    """What a scan finds.

    Attributes:
        sequences: the record that stored an item of the history, by the item's key as a digest.
        reasons: of rejects whose parts are all there, by sequence number.
        newest: of each city in the history.
        others: sequence numbers of items that belong to none of the records, with the arrival of their records.
    """

    sequences: dict[bytes, str] = msgspec.field(default_factory=dict)
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    newest: dict[str, str] = msgspec.field(default_factory=dict)
    others: dict[str, str] = msgspec.field(default_factory=dict)


def take_ledger(systems: Systems[ServerlessSettings]) -> Ledger:
    """Count the records.

    Raises:
        ServiceUnavailableError: the emulator or AWS does not answer.
        ConfigurationError: nothing is deployed, or there is no login.
    """
    settings = systems.settings
    with translate_errors(settings, "counting the records"):
        shards = {shard: list(map(find_place, read_shard(settings, shard))) for shard in list_shards(settings)}
        places = [place for shard in shards.values() for place in shard]
        seen = _scan(systems, places)
        outdated, cities = _compare_latest(settings, seen)
        counts: Counter[str] = Counter()
        missing: list[str] = []
        for shard in shards.values():
            counts += _count_shard(shard, seen, missing)
        unknown, expired = _count_others(settings, seen, shards)
        given_up = _count_given_up(settings)
    faults = [
        *_report("records are neither in the history nor among the rejects", counts["lost"]),
        *_report("records are in the history and among the rejects", counts["doubled"]),
        *_report("items belong to no record of the stream", unknown),
        *_report("cities are not the newest of the history in the latest table", outdated),
    ]
    reasons = {name.removeprefix("reason "): count for name, count in counts.items() if name.startswith("reason ")}
    return Ledger(
        balanced=not faults,
        faults=faults,
        lost=counts["lost"] + outdated,
        doubled=counts["doubled"] + unknown,
        put=len(places),
        history=counts["history"],
        repeats=counts["repeats"],
        rejects_by_reason=reasons,
        in_flight=counts["in flight"],
        given_up=given_up,
        expired=expired,
        cities=cities,
        outdated=outdated,
        missing=missing[:SAMPLES],
    )


def _count_shard(places: list[Place], seen: _Seen, missing: list[str]) -> Counter[str]:
    """Count the records of a shard by what became of them; those that are lost are added to `missing`."""
    counts: Counter[str] = Counter()
    is_behind = True  # the last stored record
    oldest = time.time() - MAX_AGE_S
    for place in reversed(places):
        stored = seen.sequences.get(_digest(place.ville, place.key)) if place.key else None
        reason = seen.reasons.get(place.padded)
        if reason is not None:
            counts["doubled" if stored == place.padded else f"reason {reason}"] += 1
        elif stored is not None:
            counts["history" if stored == place.padded else "repeats"] += 1
        elif is_behind and place.arrived > oldest:
            counts["in flight"] += 1
        else:
            counts["lost"] += 1
            missing.append(place.sequence)
        is_behind = is_behind and reason is None and stored != place.padded
    return counts


def _scan(systems: Systems[ServerlessSettings], places: list[Place]) -> _Seen:
    """Read the keys of the tables."""
    settings, seen = systems.settings, _Seen()
    wanted = {_digest(place.ville, place.key) for place in places if place.key}
    rejected = {place.padded for place in places}
    parts: Counter[str] = Counter()
    for number, item in enumerate(scan_items(settings, HISTORY, ("ville", KEY, "sequence", "arrived")), 1):
        digest = _digest(item["ville"], item[KEY])
        if digest in wanted:
            seen.sequences[digest] = item["sequence"]
        else:
            seen.others[item["sequence"]] = item["arrived"]
        seen.newest[item["ville"]] = max(item[KEY], seen.newest.get(item["ville"], ""))
        if not number % 1_000:
            systems.progress("counting the history", min(number, len(wanted)), len(wanted))
    systems.progress("counting the history", len(wanted), len(wanted))
    for item in scan_items(settings, REJECTS, ("sequence#part", "parts", "reason", "arrived")):
        sequence = item["sequence#part"].partition("#")[0]
        parts[sequence] += 1
        if sequence not in rejected:
            seen.others[sequence] = item["arrived"]
        elif parts[sequence] == item["parts"]:
            seen.reasons[sequence] = item["reason"]
    return seen


def _compare_latest(settings: ServerlessSettings, seen: _Seen) -> tuple[int, int]:
    """Compare the latest table with the newest items of the history.

    Returns:
        The number of cities whose item is missing or older, and the number of items.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        latest = {item["ville"]: item.get(KEY, "") for item in scan_items(settings, LATEST, ("ville", KEY))}
        outdated = sum(latest.get(city, "") < key for city, key in seen.newest.items())
        # The function writes the history first.
        if not outdated or time.monotonic() > deadline:
            return outdated, len(latest)
        time.sleep(POLL_S)


def _count_others(settings: ServerlessSettings, seen: _Seen, shards: dict[str, list[Place]]) -> tuple[int, int]:
    """Items of no record that was read: those of no record at all, and those whose record retention has removed."""
    others = seen.others
    if others:
        # What has come meanwhile.
        for shard, places in shards.items():
            after = places[-1].sequence if places else None
            for record in read_shard(settings, shard, after=after):
                others.pop(find_place(record).padded, None)
    stream = make_client(settings, "kinesis").describe_stream_summary(StreamName=STREAM)
    # An hour less: retention goes on while this reads.
    hours = stream["StreamDescriptionSummary"]["RetentionPeriodHours"] - 1
    kept = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    unknown = sum(arrived > kept for arrived in others.values())
    return unknown, len(others) - unknown


def _count_given_up(settings: ServerlessSettings) -> int:
    sqs = make_client(settings, "sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    return sum(map(int, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()))


def _digest(ville: str, key: str) -> bytes:
    return hashlib.blake2b(f"{ville}\0{key}".encode(), digest_size=16).digest()


def _report(what: str, count: int) -> list[str]:
    return [f"{count:,} {what}"] if count else []
