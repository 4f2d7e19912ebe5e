"""What becomes of searches that are killed, starved, lied to and damaged, beside one that was left alone.

    python -m benchmarks.faults --out results/faults_cpu_202612
    python -m benchmarks.faults --out results/faults_cpu_202612 --only killed-here full-disk

Each fault is done for real to `nas search` commands: signals, a full and a read-only file system (small ones of their own, which only
root can mount), files with flipped bits, functions that end their process, and a clock that goes back (that of these processes
alone, by `fault_clock.c`). Then the search goes on until it is done. A row of `faults.jsonl` says what was expected and what happened;
`equal` is whether all trials, the front and the networks trained alone are those of a search that was not disturbed (null where no
search was to end). Rows that are there are not made again. Searches are of 60 trials of NSGA-II, each a function of a few milliseconds,
or train a supernet and the front on 300 digits.

The exit status is 1 if a row is not as expected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fault_sessions import NAN, REASONS, ROOT, Outcome, Session, flip, half_written, number, outcome, warmed
from benchmarks.resumable import note
from nas import Study

SCORED = (
    "search --space nas-bench-macro --objectives score:max,macs --strategy nsga2 --trials 60 --evaluate "
    "benchmarks.fault_sessions:"
).split(" ")
TRAINED = (
    "search --space resnet20-pooling --data digits --limit 300 --test-limit 100 --supernets 1 --epochs 3 --alone-epochs 2 "
    "--batch-size 64 --trials 8"
).split()
PROCESSES = ["--engine", "processes", "--parallel", "2"]


class Found(NamedTuple):
    """What became of a fault.

    Attributes:
        repeats: how often it was done.
        happened: in words.
        equal: whether what came out is as if nothing had happened; None where nothing was to come out.
        well: whether everything else is as expected.
    """

    repeats: int
    happened: str
    equal: bool | None
    well: bool = True


class Lab:
    """Where faults are done: a folder, processes that start in a moment, and searches without faults to compare with."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.context: ForkServerContext = warmed()
        self._made = 0

    def start(self, words: list[str], out: Path) -> Session:
        """A command that goes on with a run folder, or begins it."""
        return Session(self.context, [*words, "--out", str(out)], self.new("said"))

    def finish(self, words: list[str], out: Path) -> Outcome:
        """What a run comes to that is left alone from now on."""
        session = self.start(words, out)
        if session.end():
            raise SystemExit(f"a search that was left alone failed: {session.words}")
        return outcome(out)

    def new(self, name: str) -> Path:
        """A path in a folder of its own."""
        self._made += 1
        (self.folder / str(self._made)).mkdir()
        return self.folder / str(self._made) / name

    @cached_property
    def scored(self) -> Outcome:
        """Of a search by a function, in one process."""
        return self.finish(scored(), self.new("run"))

    @cached_property
    def trained(self) -> Outcome:
        """Of a search that trains."""
        return self.finish(TRAINED, self.new("run"))

    def part_done(self, words: list[str], there: Callable[[Path], bool], out: Path | None = None) -> Path:
        """A run folder whose process was killed once something was there."""
        out = out or self.new("run")
        session = self.start(words, out)
        if not session.wait(lambda: there(out)):
            raise SystemExit(f"a search ended before it could be killed: {session.words}")
        session.end(signal.SIGKILL)
        return out


def scored(function: str = "score", *more: str) -> list[str]:
    """The command of a search by a function."""
    return [*SCORED[:-1], SCORED[-1] + function, *more]


def lines(folder: Path) -> int:
    """Of a run's journal."""
    journal = folder / "journal.log"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def half_done(folder: Path) -> bool:
    return lines(folder) > 25


# --- killed ---


def killed(lab: Lab, words: list[str], expected: Outcome, times: int, longest: float) -> Found:
    """Kill sessions at random moments, half of them once they have written a trial; each run goes on until it is done."""
    kills, runs, sessions, equal, out = 0, 0, 0, True, lab.new("run")
    while kills < times or out.exists():
        session, sessions = lab.start(words, out), sessions + 1
        if kills < times:
            if lab.rng.random() < 0.5:
                wait_for_trial(session, out)
            time.sleep(lab.rng.uniform(0, longest))
        code = session.end(signal.SIGKILL if kills < times else None)
        kills += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            return Found(kills, f"exit status {code}: {session.words.strip()[-300:]}", False)
        if code == 0:
            runs, equal, out = runs + 1, equal and outcome(out) == expected, lab.new("run")
    text = (
        f"{kills} of {sessions} sessions killed, until {'a search was' if runs == 1 else f'{runs} searches were'} done"
    )
    return Found(kills, text, equal)


def wait_for_trial(session: Session, out: Path) -> None:
    """Wait until a trial is written, or the session ends."""
    before = lines(out)
    session.wait(lambda: lines(out) > before)


def killed_here(lab: Lab) -> Found:
    return killed(lab, scored(), lab.scored, 20, 1.0)


def killed_processes(lab: Lab) -> Found:
    return killed(lab, scored("score", *PROCESSES), lab.scored, 20, 1.0)


def killed_ray(lab: Lab) -> Found:
    with cluster() as address:
        words = scored("score", "--engine", "ray", "--parallel", "2", "--address", address)
        return killed(lab, words, lab.scored, 3, 1.0)


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The address of a Ray cluster on this machine, which ends with the body."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield made.address
    finally:
        made.shutdown()


def killed_training(lab: Lab) -> Found:
    return killed(lab, TRAINED, lab.trained, 6, 2.5)


def two_writers(lab: Lab) -> Found:
    out = lab.new("run")
    first = lab.start(scored(), out)
    first.wait(lambda: lines(out) > 5)
    second = lab.start(scored(), out)
    code = second.end()
    refused = code == 2 and f"another process is running in {out}" in second.words
    equal = first.end() == 0 and outcome(out) == lab.scored
    return Found(1, f"the second: exit status {code}, `{last(second, out)}`", equal, refused)


def terminated(lab: Lab) -> Found:
    seconds, codes, equal, times = [], [], True, 5
    for _ in range(times):
        out = lab.new("run")
        session = lab.start(TRAINED, out)
        session.wait(lambda out=out: (out / "supernets/checkpoint.safetensors").exists())  # type: ignore[misc]
        time.sleep(lab.rng.uniform(0, 0.3))
        began = time.monotonic()
        codes.append(session.end(signal.SIGTERM))
        seconds.append(time.monotonic() - began)
        equal = lab.finish(TRAINED, out) == lab.trained and equal
    statuses = ", ".join(map(str, sorted(set(codes))))
    text = f"exit status {statuses}; gone after {min(seconds):.2f} to {max(seconds):.2f} s"
    return Found(times, text, equal, set(codes) == {143})


def interrupted_import(lab: Lab) -> Found:
    good, said = 0, ""
    for _ in range(5):
        out = lab.new("run")
        session = subprocess.Popen(
            [sys.executable, "-m", "nas", *scored(), "--out", str(out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        maps = Path(f"/proc/{session.pid}/maps")
        while "libtorch" not in maps.read_text():
            time.sleep(0.01)
        time.sleep(lab.rng.uniform(0, 0.5))
        session.send_signal(signal.SIGINT)
        said, _ = session.communicate()
        good += session.returncode == 130 and said == "Stopped.\n" and not out.exists()
    return Found(5, f"{good} of 5: exit status 130, the line '{said.strip()}', and no folder", None, good == 5)


# --- file systems ---


@contextlib.contextmanager
def small_disk(lab: Lab, kib: int) -> Iterator[Path]:
    """A file system of its own in memory, of so many KiB."""
    place = lab.new("disk")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "faults", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def full_disk(lab: Lab) -> Found:
    """Full at different moments: in the first files, the journal, the tables and the page."""
    sizes, failed, whole, equal, said = (8, 24, 48, 100, 160, 200, 260), 0, True, True, set()
    for size in sizes:
        with small_disk(lab, size) as place:
            out = place / "run"
            session = lab.start(scored(), out)
            clear = session.end() == 1 and "No space left on device" in session.words
            failed += clear and "Traceback" not in session.words
            said.add(last(session, out))
            whole = whole and not half_written(out)
            remount(place, "size=64m")
            equal = equal and lab.finish(scored(), out) == lab.scored
    text = f"{failed} of {len(sizes)}: exit status 1 and `No space left on device`; {'nothing' if whole else 'something'} half-written"
    if failed < len(sizes):
        text += f"; said {sorted(said)}"
    return Found(len(sizes), text, equal, failed == len(sizes) and whole)


def read_only(lab: Lab) -> Found:
    """A folder that may not be written to from the start, and one in the middle of a search."""
    with small_disk(lab, 65536) as place:
        remount(place, "ro")
        first = lab.start(scored(), place / "new")
        codes = [first.end()]
        remount(place, "rw")
        out = lab.part_done(scored(), half_done, place / "run")
        kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        remount(place, "ro")
        second = lab.start(scored(), out)
        codes.append(second.end())
        same = all(path.read_bytes() == data for path, data in kept.items())
        front = Session(lab.context, ["front", str(out), "--json"], lab.new("said"))
        readable = front.end() == 0 and front.words.count("\n") > 0
        remount(place, "rw")
        equal = lab.finish(scored(), out) == lab.scored
    clear = all("Read-only file system" in each.words and "Traceback" not in each.words for each in (first, second))
    text = f"exit status {codes[0]} and {codes[1]}, `{last(second, out)}`; `nas front` {'reads' if readable else 'fails on'} it"
    return Found(2, text, equal, clear and codes == [2, 2] and same and readable)


def last(session: Session, out: Path) -> str:
    """The last line that a session in a run folder printed; the folder is DIR."""
    return (session.words.strip().splitlines() or [""])[-1].strip().replace(str(out), "DIR")


# --- damage ---


def cut_line(lab: Lab) -> Found:
    equal, warned, times = True, 0, 5
    for _ in range(times):
        out = lab.part_done(scored(), half_done)
        journal = out / "journal.log"
        data = journal.read_bytes()
        begin = data.rstrip(b"\n").rfind(b"\n") + 1
        journal.write_bytes(data[: lab.rng.randrange(begin + 1, len(data))])
        session = lab.start(scored(), out)
        equal = session.end() == 0 and outcome(out) == lab.scored and equal
        warned += "was cut short and is dropped" in session.words
    return Found(times, f"{warned} of {times}: dropped with a warning, its trial is done again", equal, warned == times)


def flipped_line(lab: Lab) -> Found:
    """Anywhere before the last line: refused, or read to the same trials, as where only the order of lines would be told."""
    whole, times, refused, unharmed, said = lab.part_done(scored(), half_done), 20, 0, 0, ""
    until = (whole / "journal.log").read_bytes().rstrip(b"\n").rfind(b"\n")
    for _ in range(times):
        out = lab.new("run")
        shutil.copytree(whole, out)
        flip(out / "journal.log", lab.rng.randrange(until), lab.rng)
        session = lab.start(scored(), out)
        code = session.end()
        if code == 2 and "journal.log" in session.words and "Traceback" not in session.words:
            refused += 1
        elif code == 0 and outcome(out) == lab.scored:
            unharmed += 1
        else:
            said = f"; once exit status {code}, {last(session, out)}"
    equal = lab.finish(scored(), whole) == lab.scored
    text = (
        f"{refused} of {times}: exit status 2, an error that names the file; {unharmed} read to the same trials{said}"
    )
    return Found(times, text, equal, refused + unharmed == times)


def flipped_checkpoint(lab: Lab) -> Found:
    times, warned, equal, newest = 5, 0, True, "supernets/checkpoint.safetensors"
    for _ in range(times):
        out = lab.part_done(TRAINED, lambda out: all((out / (newest + end)).exists() for end in ("", ".previous")))
        path = out / newest
        flip(path, lab.rng.randrange(path.stat().st_size), lab.rng)
        session = lab.start(TRAINED, out)
        equal = session.end() == 0 and outcome(out) == lab.trained and equal
        warned += "going on from an earlier state" in session.words
    text = f"{warned} of {times}: goes on from the checkpoint before, with a warning"
    return Found(times, text, equal, warned == times)


# --- workers ---


def dying_once(lab: Lab) -> Found:
    out = lab.new("run")
    session = lab.start(scored("dies_once", *PROCESSES), out)
    code, deaths = session.end(), len([path for path in session.said.parent.iterdir() if path.name.isdigit()])
    text = f"{deaths} workers died and were replaced, their trials done again"
    return Found(deaths, text, code == 0 and outcome(out) == lab.scored, deaths > 0)


def bad_trials(lab: Lab, function: str, *engine: str) -> Found:
    """Those that went wrong have their reasons, and the others are as where none goes wrong; random search, which nothing changes."""
    at = SCORED.index("--strategy")
    random_search = [*SCORED[:at], "--strategy", "random", *SCORED[at + 2 : -1]]
    sound_out, out = lab.new("run"), lab.new("run")
    sound = lab.finish([*random_search, SCORED[-1] + "score"], sound_out)
    session = lab.start([*random_search, SCORED[-1] + function, "--trial-seconds", "0.5", *engine], out)
    code, study, found = session.end(), Study.open(out), outcome(out)
    kinds = {key: number(study.find(key)) % 11 for key in Study.open(sound_out).trials["architecture"]}
    words = {0: "too late", 1: "raised"} | ({3: "died twice"} if function == "goes_wrong_or_dies" else {})
    wrong = {key: kind for key, kind in kinds.items() if kind in words}
    reasons = dict(zip(study.failed["architecture"], study.failed["reason"], strict=True))
    right = reasons.keys() == wrong.keys() and all(REASONS[wrong[key]] in reason for key, reason in reasons.items())
    without = study.trials.loc[study.trials["score"].isna(), "architecture"]
    nan = {key for key, kind in kinds.items() if kind == NAN}
    aside = set(without) == nan and not nan & set(study.front["architecture"])
    left = [row for row in sound.trials if not (wrong.keys() | nan) & set(row)]
    equal = code == 0 and left == [row for row in found.trials if not nan & set(row)]
    many = ", ".join(f"{list(wrong.values()).count(kind)} {word}" for kind, word in words.items())
    text = f"failed trials: {many}; {len(nan)} NaN" + (" and not on the front" if aside else ", not told apart")
    if not right:
        text += f"; reasons were {sorted(set(reasons.values()))}"
    return Found(len(wrong) + len(nan), text, equal, right and aside and set(wrong.values()) == words.keys())


# --- clocks ---


def clock(lab: Lab, *searches: list[str]) -> Found:
    """The clock of searches goes back by an hour, twice."""
    library = lab.new("clock.so")
    source = Path(__file__).with_name("fault_clock.c")
    if shutil.which("cc") is None:
        return Found(0, "not done: no C compiler is installed", None)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    moved, outs = lab.new("moved"), [lab.new("run") for _ in searches]
    moved.write_text("0")
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_CLOCK": str(moved), "OMP_NUM_THREADS": "1"}
    sessions = [
        subprocess.Popen(
            [sys.executable, "-m", "nas", *words, "--out", str(out)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, out in zip(searches, outs, strict=True)
    ]
    for back in ("-3600", "-7200"):
        wait_for_all(sessions, outs, 8)
        moved.write_text(back)
    errors = [each.communicate(timeout=200)[1].strip()[-200:] for each in sessions]
    codes = [each.returncode for each in sessions]
    if any(codes):
        return Found(2, f"exit statuses {codes}: {errors}", False)
    tables = [Study.open(out).trials for out in outs]
    complete = all(len(table) == table["architecture"].nunique() == 60 for table in tables)
    jumps = [jumps_back(out) for out in outs]
    text = f"{' and '.join(str(len(table)) for table in tables)} trials, {'each once' if complete else 'some twice'}"
    text += f"; their times go back {' and '.join(map(str, jumps))} times"
    equal = outcome(outs[0]) == (lab.scored if len(outs) == 1 else outcome(outs[1]))
    return Found(2, text, equal, complete and set(jumps) == {2})


def clock_processes(lab: Lab) -> Found:
    return clock(lab, scored("slower", *PROCESSES))


def clock_shared(lab: Lab) -> Found:
    """Two searches on one study; equal is whether both folders have the same trials in the end."""
    shared = ["--storage", str(lab.new("shared.log")), "--grace", "5"]
    return clock(lab, scored("slower", *shared), scored("slower", *shared))


def wait_for_all(sessions: list[subprocess.Popen[str]], outs: list[Path], more: int) -> None:
    """Wait until so many more trials stand in each folder, or its session has ended."""
    until = [lines(out) + more for out in outs]
    while not all(
        lines(out) > end or each.poll() is not None for out, end, each in zip(outs, until, sessions, strict=True)
    ):
        time.sleep(0.005)


def jumps_back(folder: Path) -> int:
    """How often a trial was written half an hour or more before the one above it."""
    ends = [datetime.fromisoformat(trial.ended) for trial in Study.open(folder).journal.trials("search") if trial.ended]
    return sum((before - after).total_seconds() > 1800 for before, after in pairwise(ends))


class Fault(NamedTuple):
    """A row: what is done, under which engine, what should come of it, and what does it."""

    fault: str
    engine: str
    expected: str
    do: Callable[[Lab], Found]
    root: bool = False


GOES_ON = "goes on, ends equal"
FAULTS: dict[str, Fault] = {
    "killed-here": Fault("SIGKILL at random moments", "this-process", GOES_ON, killed_here),
    "killed-processes": Fault("SIGKILL at random moments", "processes", GOES_ON, killed_processes),
    "killed-ray": Fault("SIGKILL at random moments", "ray", GOES_ON, killed_ray),
    "killed-training": Fault("SIGKILL at random moments of training", "this-process", GOES_ON, killed_training),
    "two-writers": Fault("a second search on the folder", "this-process", "refused; the first is unharmed", two_writers),
    "full-disk": Fault(
        "the disk is full", "this-process", "a clear error, nothing half-written; goes on, ends equal", full_disk, True
    ),
    "read-only": Fault(
        "the folder is read-only", "this-process", "a clear error, can be read; goes on, ends equal", read_only, True
    ),
    "cut-line": Fault("the journal's last line is cut", "this-process", "dropped with a warning, ends equal", cut_line),
    "flipped-line": Fault("a bit of the journal is flipped", "this-process", "refused, or no trial differs", flipped_line),
    "flipped-checkpoint": Fault(
        "a bit of the checkpoint is flipped", "this-process", "the one before is used, ends equal", flipped_checkpoint
    ),
    "dying-once": Fault("workers die", "processes", "replaced, trials done again, ends equal", dying_once),
    "bad-processes": Fault(
        "trials hang, raise, are NaN, end their process", "processes", "failed, NaN not on the front; the others equal",
        lambda lab: bad_trials(lab, "goes_wrong_or_dies", *PROCESSES),
    ),
    "bad-here": Fault(
        "trials hang, raise, are NaN", "this-process", "failed, NaN not on the front; the others equal",
        lambda lab: bad_trials(lab, "goes_wrong"),
    ),
    "clock-processes": Fault(
        "the clock jumps back by an hour", "processes", "trials complete, each once, equal", clock_processes
    ),
    "clock-shared": Fault(
        "the clock jumps back by an hour", "this-process, two on one journal", "trials complete, each once", clock_shared
    ),
    "terminated": Fault("SIGTERM in training", "this-process", "exit status 143 within seconds, ends equal", terminated),
    "interrupted-import": Fault("Ctrl-C while it imports", "this-process", "exit status 130, one line", interrupted_import),
}  # fmt: skip


def row_of(name: str, seed: int) -> dict[str, Any]:
    """Do a fault, and say what became of it."""
    fault = FAULTS[name]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()
    try:
        if fault.root and os.geteuid():
            found = Found(0, "not done: only root can mount", None)
        else:
            found = fault.do(Lab(folder, random.Random(f"{seed} {name}")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "name": name,
        "fault": fault.fault,
        "engine": fault.engine,
        "repeats": found.repeats,
        "expected": fault.expected,
        "happened": found.happened,
        "equal": found.equal,
        "as_expected": found.well and found.equal is not False,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0, help="of moments and places")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "faults.json", "benchmarks.faults", options, ["ray", "filelock"])
    path = options.out / "faults.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for name in options.only or FAULTS:
        if not any(row["name"] == name for row in rows):
            rows.append(row_of(name, options.seed))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    for row in rows:
        sign = "  " if row["as_expected"] else "! "
        print(f"{sign}{row['fault']}, {row['engine']}, {row['repeats']} times: {row['happened']} ({row['seconds']} s)")
    sys.exit(any(not row["as_expected"] for row in rows))


if __name__ == "__main__":
    main()
