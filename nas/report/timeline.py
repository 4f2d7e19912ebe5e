"""What each worker of a run did when: from notes of trials where they tell, else from when trials were written down."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from nas.study import ALONE, SEARCH, Study, Trial, whole

THE_ONE = "the run"
"""What the worker is called where trials name none."""
DONE, TRAINED, FAILED = "trial", "trained alone", "failed trial"


class Span(NamedTuple):
    """One trial of a worker, from when to when in seconds since 1970."""

    worker: str
    start: float
    end: float
    kind: str
    trial: Trial


class Session(NamedTuple):
    """One command on the run folder; `end` is None where it did not end before this was read, or was stopped."""

    command: str
    start: float
    end: float | None


def sessions(record: Mapping[str, Any]) -> list[Session]:
    """The commands of a record whose times can be read, in order."""
    found = []
    for entry in record["sessions"]:
        start = moment(entry.get("started"))
        if start is not None:
            found.append(Session(str(entry.get("command", "")), start, moment(entry.get("ended"))))
    return sorted(found, key=lambda session: session.start)


def spans(study: Study) -> list[Span]:
    """What was done when, by start; nothing of trials that do not say when.

    A trial that has notes `started` and `seconds` says so itself. One without was over when it was written down; those of a batch were
    written down at once, and stand one behind the other.
    """
    with whole(study.journal_path):
        journal = study.journal
        known = [
            (kind, trial)
            for kind, trials in (
                (DONE, journal.trials(SEARCH)),
                (FAILED, journal.trials(SEARCH, failed=True)),
                (TRAINED, journal.trials(ALONE)),
            )
            for trial in trials
        ]
    begins = [session.start for session in sessions(study.record)]
    told, rest = [], defaultdict(list)
    for kind, trial in known:
        worker = str(trial.user_attrs.get("worker") or THE_ONE)
        start, end = moment(trial.user_attrs.get("started")), moment(trial.ended)
        if start is not None:
            told.append(Span(worker, start, start + seconds(trial), kind, trial))
        elif end is not None:
            rest[worker].append(Span(worker, end - seconds(trial), end, kind, trial))
    inferred = [span for own in rest.values() for span in _apart(own, begins)]
    return sorted([*told, *inferred], key=lambda span: span.start)


def by_worker(found: Iterable[Span]) -> list[tuple[str, list[Span]]]:
    """Spans of each worker, by name."""
    ordered = sorted(found, key=lambda span: (span.worker, span.start))
    return [(worker, list(own)) for worker, own in groupby(ordered, key=lambda span: span.worker)]


def moment(text: object) -> float | None:
    """Seconds since 1970 of an ISO 8601 date and time, or None of anything else; one without a zone is local."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def clock(at: float) -> str:
    """`2026-11-30 12:00:00`, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def seconds(trial: Trial) -> float:
    """What a trial took; nothing where it does not say."""
    took = trial.user_attrs.get("seconds")
    return float(took) if isinstance(took, int | float) and math.isfinite(took) and took > 0 else 0.0


def _apart(own: list[Span], begins: list[float]) -> list[Span]:
    """Spans of one worker that does one thing at a time: each ends where the next starts, and none starts before its session."""
    found: list[Span] = []
    following, at = math.inf, len(begins) - 1
    for span in reversed(sorted(own, key=lambda span: span.end)):  # in a batch, the last is the last
        while at >= 0 and begins[at] > span.end:
            at -= 1
        end = min(span.end, following)
        following = max(end - (span.end - span.start), begins[at] if at >= 0 else -math.inf)
        found.append(span._replace(start=following, end=end))
    return found[::-1]
