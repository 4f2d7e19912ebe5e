"""Jobs go in, results come out as they finish, failures as results, under every engine; and searches that use them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import nas
from nas.engines import Died, EngineConfig, Job, Late, Workers, open_engine, results
from nas.engines.limit import limited
from nas.study import configure
from search_spaces import make_space
from tests.nas.engines.made_up import State, by_number, cannot_be_made, dies_at_once, well

SPACE = make_space("resnet20-pooling", image_size=16)
HERE, THERE = EngineConfig(), EngineConfig(parallel=2)
RAY = EngineConfig(name="ray", parallel=2)
EVERY = pytest.mark.parametrize("config", [HERE, THERE], ids=["this process", "processes"])


@contextmanager
def at_work(config: EngineConfig) -> Iterator[Workers]:
    with open_engine(config, State) as workers:
        yield workers


@pytest.mark.parametrize("config", [HERE, THERE, RAY], ids=["this process", "processes", "ray"])
def test_results_are_those_of_their_jobs_and_failures_are_results(
    config: EngineConfig, request: pytest.FixtureRequest
) -> None:
    if config.remote:
        request.getfixturevalue("cluster")
    jobs = [Job("square", (x,)) for x in range(30)]
    jobs[7] = Job("fail")
    jobs[11] = Job("sleep", (), 0.2)
    with at_work(config) as workers:
        found = dict(results(workers, jobs))
        assert sorted(found) == list(range(30))
        error = found[7].error
        assert isinstance(error, ValueError) and str(error) == "no luck"
        late = found[11].error
        assert isinstance(late, Late) and str(late) == "it took longer than 0.2 s" and found[11].seconds < 20
        assert all(found[x].value[0] == x * x for x in set(range(30)) - {7, 11})
        assert {found[x].worker for x in found} <= set(range(config.workers))
        with pytest.raises(LookupError):
            workers.next()


@EVERY
def test_a_worker_keeps_its_state_and_tells_how_far_it_is(config: EngineConfig) -> None:
    told: list[float] = []
    with at_work(config) as workers:
        done = [result.value[1] for _, result in results(workers, [Job("square", (1,)) for _ in range(20)])]
        assert sum(sorted(done)[-config.workers :]) >= 20 - config.workers
        list(results(workers, [Job("steps")], told.append))
    assert told and all(0 < part <= 1 for part in told) and told == sorted(told)


def test_a_worker_that_dies_or_hangs_is_replaced_and_its_job_done_again(tmp_path: Path) -> None:
    jobs = [
        Job("die"),
        Job("hang", (), 0.3),
        Job("die_once", (str(tmp_path / "mark"),)),
        Job("unsendable"),
        Job("square", (3,)),
    ]
    with at_work(THERE) as workers:
        found = dict(results(workers, jobs))
    errors = [found[place].error for place in range(5)]
    assert isinstance(errors[0], Died) and "exit code 3, 2 times" in str(errors[0])
    assert isinstance(errors[1], Late)
    assert errors[2] is None and found[2].value == "done"
    assert "pickle" in str(errors[3])
    assert errors[4] is None and found[4].value[0] == 9


def test_workers_that_cannot_start_end_the_run() -> None:
    with pytest.raises(ValueError, match="no data there"), open_engine(THERE, cannot_be_made) as workers:
        list(results(workers, [Job("square", (1,))]))
    start = r"3 workers in a row ended by exit code 7(?s:.*)__main__"
    with pytest.raises(Died, match=start), open_engine(THERE, dies_at_once) as workers:
        list(results(workers, [Job("square", (1,))]))
    message = "must be picklable, got .*; name functions as module:function"
    with pytest.raises(ValueError, match=message), open_engine(THERE, lambda place: State(place)):
        pass
    with pytest.raises(
        ValueError, match="`engine` this-process does one trial at a time, got `parallel` 3; use processes"
    ):
        EngineConfig(name="this-process", parallel=3)
    with pytest.raises(ValueError, match="no engine is named 'rai'"):
        EngineConfig(name="rai")


def test_workers_end_with_what_opened_them() -> None:
    with pytest.raises(KeyError), at_work(THERE) as workers:
        workers.submit(Job("sleep"))
        while any(not worker.ready for worker in workers._workers):  # type: ignore[attr-defined]
            workers._look(lambda job, done: None)  # type: ignore[attr-defined]
        ids = [worker.process.pid for worker in workers._workers]  # type: ignore[attr-defined]
        raise KeyError
    for process in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_bound_on_seconds_leaves_other_timers_alone() -> None:
    with pytest.raises(Late), limited(30), limited(0.05):
        time.sleep(10)
    with limited(0.2):
        pass
    time.sleep(0.3)


def table(study: nas.Study) -> pd.DataFrame:
    """Trials, finished and failed, whatever their order, times and workers."""
    both = pd.concat([study.trials, study.failed])
    kept = both.drop(columns=["seconds", "worker", "started"], errors="ignore")
    return kept.sort_values("architecture").reset_index(drop=True)


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_workers_that_would_wait_for_a_strategy_are_told_of(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluate": well, "objectives": ["score:max"], "strategy": "local-search", "trials": 14}
    with pytest.warns(
        UserWarning, match="local-search asks for one trial at a time, so 1 of 2 workers computes; give"
    ) as found:
        nas.search(SPACE, out=tmp_path, parallel=2, **settings)
    assert sum("asks for one" in str(warning.message) for warning in found) == 1


@pytest.mark.filterwarnings("ignore:.* trials failed")
@pytest.mark.parametrize("strategy", ["random", "nsga2"])
def test_trials_are_the_same_under_each_engine(strategy: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"objectives": ["score:max", "macs"], "strategy": strategy, "trials": 40}
    here = nas.search(SPACE, evaluate=well, out=tmp_path / "here", **settings)
    there = nas.search(SPACE, evaluate=well, out=tmp_path / "there", parallel=2, **settings)
    pd.testing.assert_frame_equal(table(here), table(there))
    assert here.front["label"].tolist() == there.front["label"].tolist()
    assert (
        set(there.trials["worker"]) <= {"0", "1"} and "worker" not in here.trials
    )  # one may be there before the other
    nas.search(SPACE, evaluate=well, out=tmp_path / "there", **{**settings, "trials": 50})  # goes on in this process
    longer = nas.search(SPACE, evaluate=well, out=tmp_path / "here", **{**settings, "trials": 50})
    pd.testing.assert_frame_equal(table(nas.Study.open(tmp_path / "there", SPACE)), table(longer))


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_one_bad_trial_is_one_bad_trial(tmp_path: Path) -> None:
    study = nas.search(
        SPACE,
        evaluate=by_number,
        objectives=["score:max"],
        strategy="exhaustive",
        trials=36,
        out=tmp_path,
        parallel=2,
        trial_seconds=0.5,
        asynchronous=True,
    )
    reasons = study.failed.set_index("architecture")["reason"].to_dict()
    numbers = {key: sum(key.encode()) for key in [*reasons, *study.trials["architecture"]]}
    assert len(numbers) == min(36, SPACE.raw_size)
    for key, number in numbers.items():
        if number % 11 == 0:
            assert reasons[key] == "Late: it took longer than 0.5 s"
        elif number % 11 == 1:
            assert reasons[key].startswith("Died: its worker was ended by exit code 9, 2 times")
        elif number % 5 == 0:
            assert reasons[key] == f"RuntimeError: no luck with {number}"
        else:
            assert key not in reasons
    assert {number % 11 for number in numbers.values()} >= {0, 1}
    again = nas.search(
        SPACE, evaluate=by_number, objectives=["score:max"], strategy="exhaustive", trials=36, out=tmp_path
    )
    assert len(again.trials) + len(again.failed) == len(numbers)


def test_latency_is_not_measured_beside_workers() -> None:
    with pytest.raises(ValueError, match="latency_ms is measured while no worker computes, got `asynchronous`"):
        configure("resnet20-pooling", "digits", objectives=["accuracy", "latency_ms"], asynchronous=True)
