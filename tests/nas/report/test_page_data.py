"""What the script of a page reads, and what was done when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import Study
from nas.report import page_data as module
from nas.report.page import searched
from nas.report.page_data import command, page_data
from nas.report.timeline import DONE, FAILED, THE_ONE, TRAINED, Span, _apart, by_worker, sessions, spans
from nas.study import SEARCH, Trial
from tests.made_up_studies import complete, train_alone, try_


def data_of(study: Study) -> dict:  # type: ignore[type-arg]
    return page_data(study, study.ranked, study.front, study.searched_front, searched(study), spans(study))


def test_columns_say_what_they_are_and_hold_every_trial(start: Callable[..., Study]) -> None:
    study = complete(start())
    data = data_of(study)
    columns = {column["name"]: (at, column) for at, column in enumerate(data["columns"])}
    assert [column["title"] for column in data["columns"] if column["main"]] == [
        "accuracy alone", "accuracy supernet", "macs", "params", "latency"
    ]  # fmt: skip
    assert [data["columns"][at]["name"] for at in data["axes"]] == ["macs", "accuracy"]
    assert columns["accuracy"][1] | {"as": "percent", "up": True, "alone": "accuracy_alone"} == columns["accuracy"][1]
    assert not columns["macs"][1]["up"] and columns["trial"][1]["main"] is False
    assert data["values"][columns["macs"][0]] == [1_000_000 * (at + 1) for at in range(36)]
    assert [data["labels"][at] for at in data["front"]] == list(study.front["label"]) and data["behind"] == []
    pools = data["choices"][0]
    assert pools["name"] == "pools" and pools["values"][data["codes"][0][0]] == "[1, 2]"
    measured = data["values"][columns["latency_ms"][0]]
    assert {measured[at] for at in data["front"]} == {1.312} and measured.count(None) == 36 - len(data["front"])


def test_a_page_of_too_many_trials_keeps_the_front_and_a_sample(
    start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = complete(start())
    monkeypatch.setattr(module, "MOST", 20)
    data = data_of(study)
    assert data["total"] == 36 and len(data["labels"]) == 20 == len(set(data["labels"]))
    assert [data["labels"][at] for at in data["front"]] == list(study.front["label"])
    shown = [trial for worker in data["timeline"]["workers"] for trial in worker["trial"]]
    assert len(shown) == 20 + len(study.alone) and min(shown) >= 0


def test_the_command_is_one_that_works_on_the_run(start: Callable[..., Study]) -> None:
    study = start()
    assert command(study) == {"before": f"nas export {study.folder} --pick ", "after": ""}
    study.config = study.config.model_copy(update={"data": None, "evaluate": "mine:score"})
    assert command(study)["before"].startswith("nas front ")
    study.config = study.config.model_copy(
        update={"space": study.config.space.model_copy(update={"name": "mine:space"})}
    )
    assert command(study)["after"] == " --trust"
    study.config = study.config.model_copy(
        update={"space": study.config.space.model_copy(update={"name": "an object"})}
    )
    assert command(study) == {}


def test_trials_that_say_who_and_when_stand_where_they_say(start: Callable[..., Study]) -> None:
    study = start()
    began = datetime(2026, 11, 30, 12, tzinfo=UTC)
    archs = list(study.space.enumerate())
    for at, worker in enumerate(("b", "a", "b")):
        notes = {"worker": worker, "started": (began + timedelta(seconds=at)).isoformat(), "seconds": 0.5}
        study.add(SEARCH, archs[at], None if at == 2 else [0.5, 1e6], {**notes, "params": 1, "reason": "why"})
    found = by_worker(spans(study))
    assert [(worker, [span.kind for span in own]) for worker, own in found] == [("a", [DONE]), ("b", [DONE, FAILED])]
    assert found[1][1][1][1:3] == (began.timestamp() + 2, began.timestamp() + 2.5)


def test_trials_that_do_not_say_so_are_one_workers_within_its_session(start: Callable[..., Study]) -> None:
    study = start()
    with study.session("nas search"):
        archs = [try_(study, number) for number in range(4)]
        train_alone(study, archs[0], 0.9)
    found = spans(study)
    (session,) = sessions(study.record)
    assert [span.kind for span in found] == [*[DONE] * 4, TRAINED] and {span.worker for span in found} == {THE_ONE}
    assert found[0].start >= session.start and session.command == "nas search"
    assert all(one.end <= other.start + 1e-6 for one, other in zip(found, found[1:], strict=False))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=20),
    st.lists(st.integers(0, 20), max_size=3).map(sorted),
)
def test_one_worker_does_one_thing_at_a_time(known: list[tuple[int, int]], begins: list[float]) -> None:
    given_ = [Span("w", end - took, end, DONE, Trial([float(at)], {})) for at, (end, took) in enumerate(known)]
    found = _apart(given_, begins)
    assert len(found) == len(given_)
    assert all(one.start <= one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    assert all(span.end <= given_[int(span.trial.values[0])].end for span in found)  # type: ignore[index]
