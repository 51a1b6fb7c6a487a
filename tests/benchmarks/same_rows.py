"""Shows that two checkouts of this program store the same rows: scores, alerts, their events, deliveries and cursors.

    python tests/benchmarks/same_rows.py --before DIR --after DIR
    python tests/benchmarks/same_rows.py --before DIR --after DIR --sets demo --modes score --work FOLDER

Only the command line of the two is used, so that modules may move and be renamed between them. For each set the
checkout `--before` imports a recording and trains one model, once: `--work` keeps that, and what `--before` made of it.
Then each checkout gets a copy of that database and goes through the same plan, in two modes:

    score    a series of `detector score --at T`
    daemon   one `detector run` under a clock that stands where this program puts it. A daemon remembers what it has
             scored, so that late rows revise and withdraw alerts; `detector score` reads them like all others.

The plan: rising times, unevenly spaced, one of them twice. Between some of them late rows come in that were missing or
wrong before, alerts are acknowledged or closed by hand as soon as there are any, and a mute exclusion is added. Sets:
three server machines of SMD and the demo's recording are scored by a network, seventeen cloud metrics of NAB by a
baseline. Alert budgets are large, so that there is much to compare.

Rows are compared bit for bit. Left out are only the times at which people did something, which are those of the wall
clock. What differs in explanations alone is told apart, as `wording`. Prints JSON, progress goes to stderr. Ends with
status 1 if there is any difference, or if too little happened to prove anything.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DETECTOR_TEST_DATA", CHECKOUT.parent / "shared/data"))
DEMO = "detector/demo/recording/host.csv.gz"
MODES = ("score", "daemon")
PLAN_VERSION = 1  # of what is kept in --work

CONFIG = """
log_level = "info"

[database]
url = "sqlite:///{folder}/detector.db"

[export]
listen = "127.0.0.1:0"

[[monitors]]
name = "{name}"
step = "{step}s"
delay = "{delay}s"
lateness = "{lateness}s"
score_every = "1s"
retrain = "off"
max_catch_up = "36500d"
keep_scores = "36500d"
metrics = {metrics}
source = {{ type = "embedded" }}
model = {{ kind = "{kind}", units = {units} }}
training = {{ epochs = {epochs} }}
threshold = {{ alert_budget_per_week = {budget} }}
decision = {{ critical_slots = {critical_slots} }}
"""
NOTIFIER = """
[[notifiers]]
type = "webhook"
name = "nobody"
url = "http://127.0.0.1:9/"
"""
CLOCK = """
import os
import time


def _time() -> float:
    with open(os.environ["SAME_ROWS_CLOCK"]) as file:
        return float(file.read())


time.time = _time
"""
"""A `sitecustomize`: Python imports it before anything else, so whoever asks for the time gets that of a file."""

PEOPLE = {"acknowledged_at", "closed_at"}  # times of the wall clock: only whether there is one is compared
LEFT_OUT = {"detector_delivery": {"next_at"}}
TABLES = ("detector_score", "detector_alert", "detector_alert_event", "detector_delivery", "detector_cursor")
LEAST_ALERTS = 10
SEEN_IN_EACH_MODE = {"opened", "escalated", "closed", "acknowledged"}
SEEN_BY_THE_DAEMON = {"revised", "withdrawn"}  # in any of the sets

Row = tuple[datetime, list[str]]
"""Time and values of a recording, as they are written."""


@dataclass(frozen=True)
class Recording:
    """What is replayed, cut to what is needed."""

    metrics: list[str]
    rows: dict[str, list[Row]]  # by entity, in the order of the file


@dataclass(frozen=True)
class Settings:
    """How a set is trained and replayed; times in seconds."""

    kind: str
    step: int
    trained_until: datetime
    replayed_until: datetime
    budget: float
    moments: int
    delay: int = 10
    late_slots: int = 10
    critical_slots: int = 30
    units: int = 16
    epochs: int = 3


@dataclass(frozen=True)
class Late:
    """Rows that come in after the tick at a moment."""

    after: int  # number of the moment
    entity: str
    begin: datetime
    end: datetime
    is_wrong: bool  # before that they had other values; otherwise they were missing


@dataclass(frozen=True)
class Plan:
    """What is done to each database, in the same way."""

    moments: list[datetime]
    late: list[Late]
    muted: tuple[datetime, datetime]
    mute_after: int  # number of the moment


# -- recordings -------------------------------------------------------------------------------------------------------


def smd() -> tuple[Recording, Settings]:
    """Three server machines: 6,000 minutes of history, and as many with twenty labelled events."""
    begin, trained, end = 17_688, 23_688, 29_600
    found = {}
    for file in sorted((DATA / "SMD").glob("*.csv.gz")):
        metrics, rows = _read(file)
        found[file.name.removesuffix(".csv.gz")] = [(time, values[:-1]) for time, values in rows[begin:end]]
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    return Recording(metrics[:-1], found), Settings(
        kind="network",
        step=60,
        trained_until=epoch + timedelta(minutes=trained),
        replayed_until=epoch + timedelta(minutes=end),
        budget=30,
        moments=36,
    )


def nab() -> tuple[Recording, Settings]:
    """Seventeen cloud metrics, moved to begin together as in the acceptance test: gaps and doubled times included."""
    epoch, found = datetime(2014, 1, 1, tzinfo=UTC), {}
    for file in sorted((DATA / "NAB").glob("realAWSCloudwatch__*.csv.gz")):
        _, rows = _read(file)
        by = epoch - rows[0][0]
        found[file.name.split(".")[0]] = [(time + by, values[:1]) for time, values in rows]
    return Recording(["value"], found), Settings(
        kind="baseline",
        step=300,
        trained_until=epoch + timedelta(minutes=5 * 750),
        replayed_until=epoch + timedelta(minutes=5 * 4_000),
        budget=20,
        moments=30,
    )


def demo(before: Path) -> tuple[Recording, Settings]:
    """The recording of `detector demo`, three times: an hour of history, 45 minutes with five faults.

    Two more hosts do the same some minutes later, so that there are more alerts, and incidents of several.
    """
    metrics, rows = _read(before / DEMO)
    kept = [n for n, metric in enumerate(metrics) if metric != "disk_read_bytes_per_second"]  # not that machine's own
    cut = [(time, [values[n] for n in kept]) for time, values in rows]
    late = {"host-1": 0, "host-2": 2, "host-3": 7}
    hosts = {host: [(time + timedelta(minutes=by), values) for time, values in cut] for host, by in late.items()}
    return Recording([metrics[n] for n in kept], hosts), Settings(
        kind="network",
        step=5,
        trained_until=rows[0][0] + timedelta(hours=1),
        replayed_until=rows[-1][0],
        budget=50,
        moments=36,
        delay=0,
        critical_slots=12,
        units=64,
        epochs=15,
    )


def _read(file: Path) -> tuple[list[str], list[Row]]:
    """Names and rows of a file; its first column is the time."""
    with gzip.open(file, "rt", newline="") as stream:
        lines = csv.reader(stream)
        names = next(lines)[1:]
        return names, [(_utc(time), values) for time, *values in lines]


def _utc(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


# -- the plan ---------------------------------------------------------------------------------------------------------


def make_plan(recording: Recording, settings: Settings) -> Plan:
    """Times, and what happens between them; the same whenever it is made."""
    chance = random.Random(7)
    begin, step = settings.trained_until, timedelta(seconds=settings.step)
    slots = (settings.replayed_until - begin) // step
    late_after = list(range(1, settings.moments - 1, 3))
    # after late rows the next tick comes soon, otherwise at any time
    weights = [0.0 if n - 1 in late_after else chance.expovariate(1.0) for n in range(settings.moments)]
    spare = slots - 4 * settings.moments
    moments, at = [], 0.0
    for weight in weights:
        at += chance.randint(1, 3) + spare * weight / sum(weights)
        moments.append(begin + step * int(at) + timedelta(seconds=settings.delay + chance.randrange(settings.step)))
    moments.insert(5, moments[4])
    late: list[Late] = []
    for n, entity in zip(late_after, itertools.cycle(recording.rows), strict=False):
        after = n if n < 4 else n + 1
        newest = begin + step * ((moments[after] - timedelta(seconds=settings.delay) - begin) // step)
        first = newest - step * chance.randint(2, settings.late_slots)
        late.append(Late(after, entity, first, newest, is_wrong=len(late) % 2 == 1))
    length = settings.replayed_until - begin
    return Plan(moments, late, muted=(begin + 0.45 * length, begin + 0.6 * length), mute_after=len(moments) // 4)


def write_rows(folder: Path, recording: Recording, plan: Plan) -> None:
    """The files that are imported at first, and those that come late."""
    (folder / "data").mkdir()
    (folder / "late").mkdir()
    for entity, rows in recording.rows.items():
        with (folder / "data" / f"{entity}.csv").open("w", newline="") as stream:
            out = csv.writer(stream)
            out.writerow(["timestamp", *recording.metrics])
            for time, values in rows:
                late = next((x for x in plan.late if x.entity == entity and x.begin <= time < x.end), None)
                if late is None or late.is_wrong:
                    out.writerow([time.isoformat(), *(values if late is None else _wrong(values))])
    for late in plan.late:
        with (folder / "late" / f"{late.after}.csv").open("w", newline="") as stream:
            out = csv.writer(stream)
            out.writerow(["timestamp", "entity", *recording.metrics])
            for time, values in recording.rows[late.entity]:
                if late.begin <= time < late.end:
                    out.writerow([time.isoformat(), late.entity, *values])


def _wrong(values: list[str]) -> list[str]:
    return [str(2.0 * float(value) + 3.0) if value else "" for value in values]


# -- running a checkout -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A checkout, as its users run it."""

    python: str
    checkout: Path

    def environment(self, *first: Path) -> dict[str, str]:
        """The environment of its processes; `first` comes before it on the path."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DETECTOR_", "PYTHON"))}
        return kept | {"PYTHONPATH": os.pathsep.join(map(str, [*first, self.checkout])), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(self, folder: Path, *arguments: str) -> str:
        """What a command prints."""
        command = [self.python, "-m", "detector", *arguments]
        done = subprocess.run(command, cwd=folder, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.checkout}: detector {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def check(self) -> None:
        """Ends this program unless it is this checkout's package that Python imports."""
        asked = "import detector, pathlib; print(pathlib.Path(detector.__file__).resolve().parents[1])"
        done = subprocess.run(
            [self.python, "-c", asked], cwd="/", env=self.environment(), capture_output=True, text=True, check=True
        )
        if Path(done.stdout.strip()) != self.checkout:
            sys.exit(f"{self.checkout} expected, but {self.python} imports {done.stdout.strip()}")

    def fingerprint(self) -> str:
        """Changes whenever its code does."""
        digest = hashlib.sha256()
        for part in ("detector", "migrations"):
            for path in sorted((self.checkout / part).rglob("*.py")):
                digest.update(str(path.relative_to(self.checkout)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:12]


def prepare(folder: Path, name: str, recording: Recording, settings: Settings, program: Program) -> Plan:
    """A folder with a database of a recording and one model, made by `program` unless it is there."""
    plan, ready = make_plan(recording, settings), folder / "ready"
    asked = f"{PLAN_VERSION} {program.fingerprint()} {hashlib.sha256(repr((settings, plan)).encode()).hexdigest()}"
    if ready.exists() and ready.read_text() == asked:
        return plan
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_rows(folder, recording, plan)
    (folder / "config.toml").write_text(_config(folder, name, recording, settings))
    began = time.monotonic()
    say(f"{name}: importing")
    program.run(folder, "import", "data", "--monitor", name)
    say(f"{name}: training")
    program.run(folder, "retrain", name, "--to", settings.trained_until.isoformat())
    say(f"{name}: prepared in {time.monotonic() - began:.0f} s")
    ready.write_text(asked)
    return plan


def _config(folder: Path, name: str, recording: Recording, settings: Settings) -> str:
    values = asdict(settings) | {"lateness": settings.late_slots * settings.step}
    return CONFIG.format(folder=folder, name=name, metrics=json.dumps(recording.metrics), **values)


def copied(prepared: Path, folder: Path, *, notifier: bool) -> None:
    """A database of its own for a replay, with a configuration beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (
        closing(sqlite3.connect(prepared / "detector.db")) as source,
        closing(sqlite3.connect(folder / "detector.db")) as target,
    ):
        source.backup(target)
    text = (prepared / "config.toml").read_text().replace(str(prepared), str(folder))
    (folder / "config.toml").write_text(text + NOTIFIER if notifier else text)


def replay(
    prepared: Path, folder: Path, name: str, settings: Settings, plan: Plan, program: Program, mode: str
) -> None:
    """Takes a copy of a prepared database through the plan."""
    copied(prepared, folder, notifier=mode == "score")
    program.run(folder, "db", "upgrade")
    hands = Hands(program, folder)
    if mode == "score":
        for n, moment in enumerate(plan.moments):
            program.run(folder, "score", name, "--at", moment.isoformat())
            between(prepared, folder, name, plan, n, program, hands)
        return
    with daemon(program, folder, plan.moments[0]) as running:
        for n, moment in enumerate(plan.moments):
            running.tick(moment, settings)
            between(prepared, folder, name, plan, n, program, hands)


def between(prepared: Path, folder: Path, name: str, plan: Plan, n: int, program: Program, hands: Hands) -> None:
    """What happens after the tick at a moment."""
    if n == plan.mute_after:
        begin, end = (moment.isoformat() for moment in plan.muted)
        program.run(folder, "exclude", "add", "--monitor", name, "--from", begin, "--to", end, "--by", "ops")
    if any(late.after == n for late in plan.late):
        program.run(folder, "import", str(prepared / "late" / f"{n}.csv"), "--monitor", name)
    hands.work()


class Hands:
    """Somebody who acknowledges an alert, closes the next one, and so on, six in all."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._left = ["ack", "close", "ack", "ack", "close", "close"]
        self._touched: set[int] = set()

    def work(self) -> None:
        """Does the next thing, if there is an open alert that nothing was done to."""
        with closing(sqlite3.connect(self._folder / "detector.db")) as connection:
            found = [row[0] for row in connection.execute("SELECT id FROM detector_alert WHERE state = 'open'")]
        untouched = sorted(set(found) - self._touched)
        if untouched and self._left:
            verb = self._left.pop(0)
            self._touched.add(untouched[0])
            self._program.run(
                self._folder, "alerts", verb, str(untouched[0]), "--by", "ops", "--comment", f"to {verb} it"
            )


class Daemon:
    """A running daemon whose time is what a file says."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, clock: Path) -> None:
        self._process = process
        self._folder = folder
        self._clock = clock

    def tick(self, moment: datetime, settings: Settings) -> None:
        """Puts the clock forward and waits until everything up to then is committed."""
        set_clock(self._clock, moment)
        step = settings.step * 1000
        expected = (round(moment.timestamp() * 1000) - settings.delay * 1000) // step * step
        give_up = time.monotonic() + 120
        with closing(sqlite3.connect(self._folder / "detector.db", timeout=30)) as connection:
            while (connection.execute("SELECT max(slot) FROM detector_cursor").fetchone()[0] or 0) < expected:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    log = (self._folder / "log").read_text(errors="replace")
                    sys.exit(f"{self._folder}: the daemon does not get to {moment}:\n{log[-3000:]}")
                time.sleep(0.02)


@contextmanager
def daemon(program: Program, folder: Path, first: datetime) -> Iterator[Daemon]:
    """Runs `detector run` until the block ends."""
    (folder / "clock").mkdir()
    (folder / "clock/sitecustomize.py").write_text(CLOCK)
    clock = folder / "clock/now"
    set_clock(clock, first)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program.python, "-m", "detector", "run"],
            cwd=folder,
            env=program.environment(folder / "clock") | {"SAME_ROWS_CLOCK": str(clock)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Daemon(process, folder, clock)
            process.send_signal(signal.SIGTERM)
            if process.wait(timeout=30) != 0:
                sys.exit(f"{folder}: the daemon ended with {process.returncode}")
        finally:
            process.kill()  # no effect on one that has ended


def set_clock(file: Path, moment: datetime) -> None:
    """Puts a daemon's clock to a time, at once."""
    new = file.with_suffix(".new")
    new.write_text(str(moment.timestamp()))
    new.replace(file)


# -- comparing --------------------------------------------------------------------------------------------------------


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Rows and differences by table, and what happened, of two databases."""
    result: dict[str, Any] = {"tables": {}}
    for table in TABLES:
        one, other = rows_of(before, table), rows_of(after, table)
        words = [(row.pop("explanation", None), two.pop("explanation", None)) for row, two in _pairs(one, other)]
        differing = [(row, two) for row, two in _pairs(one, other) if row != two]
        count = len(differing) + abs(len(one) - len(other))
        result["tables"][table] = {"before": len(one), "after": len(other), "differences": count}
        if count:
            result["tables"][table]["first"] = _first(differing, one, other)
        if table == "detector_alert":
            result["wording"] = sum(left != right for left, right in words)
    result["happened"] = happened(before)
    return result


def _pairs(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return zip(one, other, strict=False)  # what only one of them has is counted by itself


def _first(differing: list[tuple[Any, Any]], one: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    """The first difference, in the columns that differ."""
    if not differing:
        shorter = min(len(one), len(other))
        return {"before": one[shorter : shorter + 1], "after": other[shorter : shorter + 1]}
    left, right = differing[0]
    names = [name for name in left if left[name] != right.get(name)]
    return {"row": left, "before": {n: left[n] for n in names}, "after": {n: right.get(n) for n in names}}


def rows_of(folder: Path, table: str) -> list[dict[str, Any]]:
    """Rows in order of their primary key, as they are compared: floats as hexadecimal, so that each bit counts."""
    with closing(sqlite3.connect(folder / "detector.db")) as connection:
        connection.row_factory = sqlite3.Row
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        keys = [f'"{column["name"]}"' for column in sorted(columns, key=lambda c: c["pk"]) if column["pk"]]
        found = connection.execute(f"SELECT * FROM {table} ORDER BY {', '.join(keys)}").fetchall()
    names = [column["name"] for column in columns if column["name"] not in LEFT_OUT.get(table, ())]
    return [{name: _value(table, name, row) for name in names} for row in found]


def _value(table: str, name: str, row: sqlite3.Row) -> Any:
    value = row[name]
    if table == "detector_alert" and name in PEOPLE:
        return value is not None
    if table == "detector_alert_event" and name == "created_at" and row["by"] is not None:
        return None
    return value.hex() if isinstance(value, float) else value


def happened(folder: Path) -> dict[str, Any]:
    """Alerts and events of a database, counted."""
    with closing(sqlite3.connect(folder / "detector.db")) as connection:
        alerts = connection.execute("SELECT state, severity, is_muted, reopenings FROM detector_alert").fetchall()
        events = connection.execute('SELECT change, "by" IS NOT NULL FROM detector_alert_event').fetchall()
    return {
        "alerts": len(alerts),
        "muted": sum(bool(row[2]) for row in alerts),
        "states": dict(sorted(Counter(row[0] for row in alerts).items())),
        "severities": dict(sorted(Counter(row[1] for row in alerts).items())),
        "events": dict(sorted(Counter(row[0] for row in events).items())),
        "by_people": sum(row[1] for row in events),
    }


def too_little(sets: dict[str, dict[str, Any]]) -> list[str]:
    """What should have happened for the comparison to mean something, but did not."""
    missing, by_daemon = [], set[str]()
    for name, modes in sets.items():
        for mode, result in modes.items():
            found = result["happened"]
            if found["alerts"] < LEAST_ALERTS:
                missing.append(f"{name} {mode}: {LEAST_ALERTS} alerts expected, {found['alerts']} there")
            if absent := SEEN_IN_EACH_MODE - set(found["events"]):
                missing.append(f"{name} {mode}: no alert was {', '.join(sorted(absent))}")
            if mode == "daemon":
                by_daemon |= set(found["events"])
    if by_daemon and SEEN_BY_THE_DAEMON - by_daemon:
        missing.append(f"daemon: no alert was {', '.join(sorted(SEEN_BY_THE_DAEMON - by_daemon))} by late rows")
    return missing


# -- all of it --------------------------------------------------------------------------------------------------------


def one_set(name: str, asked: argparse.Namespace, before: Program, after: Program) -> dict[str, Any]:
    """The comparison of a set, by mode."""
    recording, settings = smd() if name == "SMD" else nab() if name == "NAB" else demo(before.checkout)
    folder = asked.work / name
    prepared = folder / "prepared"
    plan = prepare(prepared, name, recording, settings, before)
    result = {}
    for mode in asked.modes:
        folders = {"before": folder / f"before-{mode}", "after": folder / f"after-{mode}"}
        mark, wanted = folders["before"] / "done", (prepared / "ready").read_text()
        for program, role in ((before, "before"), (after, "after")):
            if role == "before" and mark.exists() and mark.read_text() == wanted and not asked.again:
                continue
            began = time.monotonic()
            replay(prepared, folders[role], name, settings, plan, program, mode)
            say(f"{name}: {mode} by {role} in {time.monotonic() - began:.0f} s")
            if role == "before":
                mark.write_text(wanted)
        result[mode] = compare(folders["before"], folders["after"])
    return result


def say(what: str) -> None:
    """Tells how far it is."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--before", type=Path, required=True, help="the checkout that prepares the databases")
    parser.add_argument("--after", type=Path, required=True, help="the checkout that must store the same")
    parser.add_argument("--sets", nargs="+", choices=("SMD", "NAB", "demo"), default=["SMD", "NAB", "demo"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the dependencies")
    parser.add_argument("--work", type=Path, help="a folder that keeps what was prepared [a temporary one]")
    parser.add_argument("--again", action="store_true", help="replay with --before even if --work has that")
    parser.add_argument("--allow-wording", action="store_true", help="explanations may differ")
    asked = parser.parse_args()
    began = time.monotonic()
    programs = [Program(asked.python, checkout.resolve()) for checkout in (asked.before, asked.after)]
    for program in programs:
        program.check()
    with tempfile.TemporaryDirectory() as folder:
        asked.work = (asked.work or Path(folder)).resolve()
        sets = {name: one_set(name, asked, *programs) for name in asked.sets}
    compared = [result for modes in sets.values() for result in modes.values()]
    answer = {
        "before": str(asked.before),
        "after": str(asked.after),
        "differences": sum(table["differences"] for result in compared for table in result["tables"].values()),
        "wording": sum(result["wording"] for result in compared),
        "rows": sum(table["before"] for result in compared for table in result["tables"].values()),
        "too_little": too_little(sets),
        "seconds": round(time.monotonic() - began),
        "sets": sets,
    }
    print(json.dumps(answer, indent=2))
    sys.exit(
        int(bool(answer["differences"] or answer["too_little"] or (answer["wording"] and not asked.allow_wording)))
    )


if __name__ == "__main__":
    main()
