"""What the detector's own database promises, on every kind of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from commits import STEP, T0
from commits import change as _change
from commits import commit as _commit
from migrated import migrate
from sqlalchemy import Engine, column, delete, event, func, insert, inspect, literal, select, table, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from detector import database
from detector.core.decide import Change, Episode, Severity
from detector.errors import ArtifactError, SchemaOutdated, StaleState, StoreError
from detector.ports import AlertCounts, Precedent, ScoreRows, StoredAlert, StoredExperience
from detector.store import alerts, models, parts, schema, scores
from detector.store.state import StateStore
from detector.tables import alert, alert_event, cursor, experience_part, metadata, model_part, score


def _scores(engine: Engine) -> list[tuple[str, int, float, int]]:
    columns = (score.c.entity, score.c.slot, score.c.score, score.c.model_version)
    with engine.connect() as connection:
        return sorted((row[0], row[1] - T0, row[2], row[3]) for row in connection.execute(select(*columns)))


def _bytes(size: int) -> bytes:
    """Bytes that nothing can compress."""
    return np.random.default_rng(size).bytes(size)


def _count(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (cursor, score, alert, alert_event)
        }


def _open_alerts(store: StateStore, monitor: str) -> list[StoredAlert]:
    """Those whose episode goes on, oldest first."""
    return [found for found in store.alerts_since(monitor, T0) if found.episode.closed_slot is None]


def _stored(engine: Engine, severity: Severity, peak_score: float, peak_slot: int) -> StoredAlert:
    """The one alert there is, of entity `a` since T0."""
    identity = alerts.listing(engine)[0].id
    return StoredAlert(identity, "a", Episode(T0, T0 + STEP, severity, peak_score, peak_slot))


@pytest.fixture
def migrated(engine: Engine) -> Engine:
    migrate(engine)
    return engine


@pytest.fixture
def store(migrated: Engine) -> StateStore:
    return StateStore(migrated)


# schema


def test_the_revision_needed_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(schema._config()).get_current_head() == schema.HEAD


@pytest.mark.slow
def test_an_empty_database_has_no_revision_and_is_refused(engine: Engine) -> None:
    database.ping(engine)  # creates the file of SQLite

    assert schema.current(engine) is None
    with pytest.raises(SchemaOutdated, match=r"is at schema none, this version needs .*; run: detector db upgrade"):
        schema.check(engine)


def test_an_upgrade_brings_an_empty_database_to_the_newest_revision(engine: Engine) -> None:
    schema.upgrade(engine)

    assert schema.current(engine) == schema.HEAD
    schema.check(engine)


def test_an_upgrade_may_be_repeated_and_keeps_what_is_stored(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit())

    schema.upgrade(migrated)

    assert store.cursor("web") == T0


def test_the_migrations_make_the_tables_that_the_program_uses(migrated: Engine) -> None:
    dialect = migrated.dialect.name

    def is_here(_item: object, name: str | None, *_rest: object) -> bool:
        return dialect == "postgresql" or name != "ix_detector_sample_ts"

    # Alembic does not know that Float(53) is MariaDB's DOUBLE
    options = {"compare_type": dialect != "mysql", "version_table": schema.VERSION_TABLE, "include_object": is_here}
    with migrated.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        tables = set(inspect(connection).get_table_names())

    assert differences == []
    assert tables == {*metadata.tables, schema.VERSION_TABLE}


def _migrate(engine: Engine, move: Callable[..., None], revision: str) -> None:
    with engine.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        move(config, revision)


def test_return_periods_can_be_taken_back(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(scores=ScoreRows(["a"], [T0], [0.5], [3.0])))
    _migrate(migrated, command.downgrade, "0003")
    with migrated.begin() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("detector_score")}
        tables = set(inspect(connection).get_table_names())
    assert "surprise" not in columns
    assert not {name for name in tables if "experience" in name}

    schema.upgrade(migrated)

    (found,) = scores.by_entity(migrated, "web").values()
    assert found.score.tolist() == [0.5]
    assert np.isnan(found.surprise).all()  # as of scores that an older version has stored


WHOLES = [_bytes(7), _bytes(parts.PART), _bytes(2 * parts.PART + 1)]


@pytest.mark.slow
def test_what_was_stored_whole_is_split_and_can_be_put_together_again(engine: Engine) -> None:
    _migrate(engine, command.upgrade, "0004")
    names = ("version", "monitor", "created_at", "is_live", "sha256", "header", "artifact")
    wholes = table("detector_model", *map(column, names))
    remembered = table("detector_experience", *map(column, ("monitor", "slot", "model_version", "data")))
    model = {"monitor": "web", "created_at": T0, "is_live": 1, "header": "{}"}
    with engine.begin() as connection:
        for number, data in enumerate(WHOLES, start=1):
            sha256 = hashlib.sha256(data).hexdigest()
            connection.execute(insert(wholes).values(**model, sha256=sha256, artifact=data))
            connection.execute(insert(remembered).values(monitor="web", slot=number, model_version=7, data=data))

    schema.upgrade(engine)

    assert [models.load(engine, number) for number in range(1, 4)] == WHOLES
    found = StateStore(engine).experiences("web", version=7)
    assert [(one.slot, one.data) for one in reversed(found)] == list(enumerate(WHOLES, start=1))
    assert _save(engine) == 4

    _migrate(engine, command.downgrade, "0004")

    with engine.connect() as connection:
        artifacts = connection.scalars(select(wholes.c.artifact).order_by(wholes.c.version)).all()
        experiences = connection.scalars(select(remembered.c.data).order_by(remembered.c.slot)).all()
        tables = set(inspect(connection).get_table_names())
    assert [bytes(artifact) for artifact in artifacts] == [*WHOLES, ARTIFACT]
    assert [bytes(experience) for experience in experiences] == WHOLES
    assert not {name for name in tables if name.endswith("_part")}


def test_a_database_of_another_revision_is_refused(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0000'")

    with pytest.raises(SchemaOutdated, match="is at schema 0000, this version needs"):
        schema.check(migrated)


@pytest.mark.parametrize("url", ["postgresql://a:hunter2@127.0.0.1:1/x", "mysql://a:hunter2@127.0.0.1:1/x"])
def test_a_database_that_is_down_is_reported_in_one_line_without_its_password(url: str) -> None:
    engine = database.connect(url)

    asks: list[Callable[[], object]] = [
        lambda: schema.check(engine),
        lambda: schema.upgrade(engine),
        lambda: StateStore(engine).cursor("web"),
    ]
    for ask in asks:
        with pytest.raises(StoreError) as caught:
            ask()
        assert "hunter2" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    engine.dispose()


# cursor and scores


@pytest.mark.parametrize("expected", [None, T0], ids=["first", "later"])
def test_a_commit_whose_scores_are_refused_writes_nothing(
    store: StateStore, migrated: Engine, expected: int | None
) -> None:
    if expected is not None:
        store.commit(_commit(scores=ScoreRows(["a"], [T0], [0.5])))
    before = _count(migrated)
    twice = ScoreRows(["b", "b"], [T0 + STEP, T0 + STEP], [0.5, 0.5])

    with pytest.raises(StoreError):
        store.commit(_commit(expected_cursor=expected, cursor=T0 + STEP, scores=twice))

    assert store.cursor("web") == expected
    assert _count(migrated) == before


@pytest.mark.parametrize("expected", [None, T0], ids=["first", "later"])
def test_a_commit_whose_alerts_are_refused_writes_nothing(
    store: StateStore, migrated: Engine, expected: int | None
) -> None:
    if expected is not None:
        store.commit(_commit())
    before = _count(migrated)

    with pytest.raises(StoreError):
        store.commit(
            _commit(
                expected_cursor=expected,
                cursor=T0 + STEP,
                scores=ScoreRows(["a"], [T0 + STEP], [0.5]),
                changes=[_change(Change.OPENED), _change(Change.OPENED)],
            )
        )

    assert store.cursor("web") == expected
    assert _count(migrated) == before


def test_scores_are_read_back_by_entity_and_in_order_of_time(store: StateStore, migrated: Engine) -> None:
    rows = ScoreRows(["b", "a", "a"], [T0, T0 + STEP, T0], [0.5, 1.25, 0.75], [3.5, 8.0, math.nan])
    store.commit(_commit(scores=rows))
    store.commit(_commit(monitor="other", scores=ScoreRows(entity=["a"], slot=[T0], score=[9.0])))

    found = scores.by_entity(migrated, "web")

    assert {entity: (mine.slots.tolist(), mine.score.tolist()) for entity, mine in found.items()} == {
        "a": ([T0, T0 + STEP], [0.75, 1.25]),
        "b": ([T0], [0.5]),
    }
    np.testing.assert_array_equal(found["a"].surprise, [np.nan, 8.0])
    np.testing.assert_array_equal(found["b"].surprise, [3.5])
    assert scores.by_entity(migrated, "nobody") == {}


def test_scores_of_an_entity_are_read_at_given_slots(store: StateStore, migrated: Engine) -> None:
    """More slots than go into one query; a slot without a score is NaN."""
    slots = [T0 + n * STEP for n in range(1201)]
    entities, stored = ["a", "b", "a"], [slots[0], slots[0], slots[1200]]
    store.commit(_commit(scores=ScoreRows(entity=entities, slot=stored, score=[0.5, 7.0, 1.5])))

    found = scores.of_entity(migrated, monitor="web", entity="a", slots=slots)

    assert (len(found), found[0], found[1200]) == (1201, 0.5, 1.5)
    assert np.isnan(found[1:1200]).all()
    assert np.isnan(scores.of_entity(migrated, monitor="other", entity="a", slots=slots[:2])).all()


def test_the_oldest_score_is_known(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(scores=ScoreRows(entity=["a", "b"], slot=[T0 + STEP, T0], score=[0.5, 7.0])))

    assert scores.first_slot(migrated, "web") == T0
    assert scores.first_slot(migrated, "other") is None


def _prune(engine: Engine, monitor: str, before: int) -> list[int]:
    """Rows removed by each call, up to the first that found none."""
    removed = []
    while rows := scores.prune(engine, monitor, before):
        removed.append(rows)
    return removed


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 5, 6, 1000])
def test_old_scores_are_removed_a_few_at_a_time(
    store: StateStore, migrated: Engine, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(scores, "PRUNED", at_a_time)
    entities, slots = ["a", "b", "c"] * 3, [T0 + STEP * n for n in range(3) for _ in range(3)]
    for monitor in ("web", "db"):
        changes = [_change(Change.OPENED)]
        store.commit(_commit(monitor=monitor, scores=ScoreRows(entities, slots, [0.5] * 9), changes=changes))

    removed = _prune(migrated, "web", T0 + 2 * STEP)

    assert sum(removed) == 6
    assert max(removed) <= at_a_time
    assert _scores(migrated) == sorted(
        [(e, 2 * STEP, 0.5, 7) for e in "abc"] + [(e, s - T0, 0.5, 7) for e, s in zip(entities, slots, strict=True)]
    )
    assert len(store.alerts_since("web", T0)) == 1


def test_where_no_score_is_old_none_is_removed(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(scores=ScoreRows(["a"], [T0], [0.5])))

    assert _prune(migrated, "web", T0) == []
    assert _prune(migrated, "nobody", T0 + STEP) == []
    assert len(_scores(migrated)) == 1


@pytest.mark.parametrize("pair", [("A", "a"), ("ä", "a"), ("x", " x")], ids=["case", "accent", "space"])
def test_entities_that_differ_by_little_are_two(store: StateStore, migrated: Engine, pair: tuple[str, str]) -> None:
    store.commit(
        _commit(
            scores=ScoreRows(pair, [T0, T0], [0.1, 0.2]),
            changes=[_change(Change.OPENED, entity) for entity in pair],
        )
    )

    assert len(_scores(migrated)) == 2
    assert len(_open_alerts(store, "web")) == 2


def test_two_stores_cannot_both_move_the_cursor(store: StateStore, migrated: Engine, database_url: str) -> None:
    store.commit(_commit())
    other_engine = database.connect(database_url)
    other = StateStore(other_engine)
    move = _commit(expected_cursor=T0, cursor=T0 + STEP)

    other.commit(move)
    other_engine.dispose()

    with pytest.raises(StaleState):
        store.commit(move)


# alerts


def test_the_database_itself_refuses_a_second_open_alert(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(changes=[_change(Change.OPENED)]))
    with migrated.connect() as connection:
        row = dict(connection.execute(select(alert)).mappings().one())
    del row["id"]

    with pytest.raises(IntegrityError), migrated.begin() as connection:
        connection.execute(insert(alert).values(**row))


def test_closing_an_alert_that_is_not_open_changes_nothing(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(changes=[_change(Change.CLOSED)]))

    assert _count(migrated) == {
        "detector_cursor": 1,
        "detector_score": 0,
        "detector_alert": 0,
        "detector_alert_event": 0,
    }


def test_open_alerts_come_oldest_first_and_listings_newest_first(store: StateStore, migrated: Engine) -> None:
    changes = [
        _change(Change.OPENED, entity, opened_slot=T0 + offset) for entity, offset in (("a", 2), ("b", 1), ("c", 3))
    ]
    store.commit(_commit(changes=changes))

    assert [found.entity for found in _open_alerts(store, "web")] == ["b", "a", "c"]
    assert [row.entity for row in alerts.listing(migrated)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["d", "b", "a"]),
        ({"monitor": "web"}, ["b", "a"]),
        ({"only_open": True}, ["d", "b"]),
        ({"since": T0 + 1}, ["d", "b"]),
        ({"most": 1}, ["d"]),
        ({"monitor": "nowhere"}, []),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_listings_may_be_narrowed(
    store: StateStore, migrated: Engine, chosen: dict[str, Any], expected: list[str]
) -> None:
    closed = [_change(Change.OPENED, "a"), _change(Change.CLOSED, "a")]
    store.commit(_commit(changes=[*closed, _change(Change.OPENED, "b", opened_slot=T0 + 1)]))
    store.commit(_commit(monitor="db", changes=[_change(Change.OPENED, "d", opened_slot=T0 + 2)]))

    assert [row.entity for row in alerts.listing(migrated, **chosen)] == expected


def test_an_alert_that_does_not_exist_is_not_shown(migrated: Engine) -> None:
    assert alerts.show(migrated, 42) is None


def test_alerts_are_counted_by_severity_and_by_when_they_were_detected(store: StateStore, migrated: Engine) -> None:
    store.commit(
        _commit(
            changes=[
                _change(Change.OPENED, "a", detected_at=T0),
                _change(Change.OPENED, "b", detected_at=T0 + 5),
                _change(Change.OPENED, "c", detected_at=T0 + 6, severity=Severity.CRITICAL),
            ]
        )
    )

    assert alerts.counts(migrated, "web", T0 + 5) == AlertCounts({"warning": 2, "critical": 1}, {}, 2)
    assert alerts.counts(migrated, "db", 0) == AlertCounts({}, {}, 0)


def test_the_count_of_alerts_never_falls(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(changes=[_change(Change.OPENED)]))  # bug 21
    counted = [alerts.counts(migrated, "web", 0).by_severity]
    worse = _change(Change.ESCALATED, slot=T0 + STEP, severity=Severity.CRITICAL)

    store.commit(_commit(expected_cursor=T0, cursor=T0 + STEP, changes=[worse]))
    counted.append(alerts.counts(migrated, "web", 0).by_severity)
    gone = replace(_change(Change.WITHDRAWN, severity=Severity.CRITICAL), alert=alerts.listing(migrated)[0].id)
    store.commit(_commit(expected_cursor=T0 + STEP, cursor=T0 + 2 * STEP, changes=[gone]))
    counted.append(alerts.counts(migrated, "web", 0).by_severity)

    assert counted == [{"warning": 1}, {"warning": 1, "critical": 1}, {"warning": 1, "critical": 1}]
    assert alerts.counts(migrated, "web", 0).recent == 0


def test_a_large_incident_hides_no_other_one(store: StateStore, migrated: Engine) -> None:
    many = [_change(Change.OPENED, f"web-{number:03}") for number in range(130)]
    store.commit(_commit(changes=many))
    later = replace(
        _change(Change.OPENED, "db"), episode=Episode(T0 + 99 * STEP, T0 + 99 * STEP, Severity.WARNING, 2.0, T0)
    )
    store.commit(_commit(expected_cursor=T0, cursor=T0 + STEP, changes=[later]))

    found, total = alerts.incidents(migrated, monitor=None, only_open=True, most=10)

    assert total == 2
    assert [(one.size, len(one.alerts), one.closed) for one in found] == [(1, 1, None), (130, 100, None)]
    assert alerts.incidents(migrated, monitor=None, only_open=True, most=0) == ([], 2)
    assert [one.size for one in alerts.incidents(migrated, monitor="web", only_open=False, most=1, skip=1)[0]] == [130]


def test_people_answer_alerts_and_nobody_overwrites_another(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(changes=[_change(Change.OPENED)]))
    before = alerts.listing(migrated)[0]

    alerts.acknowledge(migrated, before, by="alice", comment="mine", now=T0 + 1)
    with pytest.raises(StaleState, match="has changed in the meantime; look again: detector alerts show"):
        alerts.acknowledge(migrated, before, by="bob", comment=None, now=T0 + 2)
    alerts.judge(migrated, alerts.listing(migrated)[0], verdict="false", by="bob", comment=None, now=T0 + 3)

    row = alerts.listing(migrated)[0]
    assert (row.state, row.acknowledged_by, row.comment, row.verdict) == ("acknowledged", "alice", "mine", "false")
    counts = alerts.counts(migrated, "web", 0)
    assert (counts.by_verdict, counts.recent) == ({"false": 1}, 1)
    alerts.judge(migrated, row, verdict="real", by="bob", comment=None, now=T0 + 4)
    counts = alerts.counts(migrated, "web", 0)
    assert (counts.by_verdict, counts.recent) == ({"real": 1}, 0)  # the budget is for false ones


def test_times_of_alerts_that_people_judged_real_are_told_by_entity(store: StateStore, migrated: Engine) -> None:
    store.commit(_commit(changes=[_change(Change.OPENED)]))
    (row,) = alerts.listing(migrated)
    assert alerts.real(migrated, "web") == {}

    alerts.judge(migrated, row, verdict="real", by="bob", comment=None, now=T0)
    ((start, end),) = alerts.real(migrated, "web")[row.entity]
    assert start == row.episode.opened_slot
    assert end > T0 + (1 << 40)  # it is still open

    alerts.judge(migrated, alerts.listing(migrated)[0], verdict="false", by="bob", comment=None, now=T0)
    assert alerts.real(migrated, "web") == {}


# models

ARTIFACT = bytes(range(256)) * 50


def test_closed_alerts_that_people_judged_are_precedents(store: StateStore, migrated: Engine) -> None:
    closed = [
        _change(Change.OPENED, name, explanation=f'{{"metrics": ["{name}"]}}', closed_slot=T0 + STEP) for name in "abcd"
    ]
    store.commit(_commit(changes=[*closed, _change(Change.OPENED, "e")]))
    first, second, third, _, still_open = sorted(alerts.listing(migrated), key=lambda row: row.id)
    assert (store.marks("web"), store.precedents("web")) == ((), [])

    for row, verdict in ((second, "false"), (first, "real"), (third, "real"), (still_open, "real")):
        alerts.judge(migrated, row, verdict=verdict, by="bob", comment=None, now=T0 + row.id)
    (third,) = [row for row in alerts.listing(migrated) if row.id == third.id]
    alerts.judge(migrated, third, verdict=None, by="bob", comment=None, now=T0)

    assert store.marks("web") == ((first.id, True), (second.id, False))
    assert store.precedents("web") == [
        Precedent(first.id, "a", is_real=True, judged_at=T0 + first.id, explanation='{"metrics": ["a"]}'),
        Precedent(second.id, "b", is_real=False, judged_at=T0 + second.id, explanation='{"metrics": ["b"]}'),
    ]
    assert store.marks("other") == ()


def _save(engine: Engine, monitor: str = "web", artifact: bytes = ARTIFACT) -> int:
    return models.save(engine, monitor=monitor, artifact=artifact, header={"seed": 1}, now=T0)


def test_a_model_is_loaded_as_it_was_saved(migrated: Engine) -> None:
    assert models.load(migrated, _save(migrated)) == ARTIFACT


@pytest.fixture
def small_packets(migrated: Engine) -> Iterator[Engine]:
    """A database that takes 4 MB at a time, if it is one that has such a limit."""
    if migrated.dialect.name != "mysql":
        yield migrated
        return
    limit = "SET GLOBAL max_allowed_packet = :bytes"
    with migrated.begin() as connection:
        before = connection.scalar(text("SELECT @@GLOBAL.max_allowed_packet"))
        connection.execute(text(limit), {"bytes": PACKET})
    migrated.dispose()  # a connection goes on with the limit that it began with
    try:
        yield migrated
    finally:
        with migrated.begin() as connection:
            connection.execute(text(limit), {"bytes": before})


PACKET = 4 << 20
LARGE = _bytes(PACKET + 1)


@pytest.mark.slow
@pytest.mark.parametrize("database_url", [pytest.param("mariadb", marks=pytest.mark.mysql)], indirect=True)
def test_a_server_refuses_what_is_larger_than_its_packets(small_packets: Engine) -> None:
    with pytest.raises(DBAPIError), small_packets.connect() as connection:
        connection.scalar(select(func.length(literal(LARGE))))


def test_a_model_larger_than_a_packet_fits(small_packets: Engine) -> None:
    version = _save(small_packets, artifact=LARGE)

    assert models.load(small_packets, version) == LARGE
    assert [row.bytes for row in models.listing(small_packets)] == [len(LARGE)]


def test_what_entities_had_shown_may_be_larger_than_a_packet(small_packets: Engine) -> None:
    store = StateStore(small_packets)
    stored = [StoredExperience(T0 + n * STEP, LARGE[n:]) for n in range(3)]
    for n, experience in enumerate(stored):
        store.commit(_commit(expected_cursor=T0 if n else None, experience=experience))

    assert store.experiences("web", version=7) == [stored[2], stored[1]]
    with small_packets.connect() as connection:  # nothing is left of the first
        slots = connection.scalars(select(experience_part.c.slot).distinct()).all()
    assert sorted(slots) == [T0 + STEP, T0 + 2 * STEP]


def test_the_model_saved_last_is_the_live_one_of_its_monitor(migrated: Engine) -> None:
    first, second, other = _save(migrated), _save(migrated), _save(migrated, "db")

    assert first < second
    assert models.live_version(migrated, "web") == second
    assert models.live_version(migrated, "db") == other
    assert models.live_version(migrated, "nowhere") is None


def test_models_are_listed_newest_first(migrated: Engine) -> None:
    first, second = _save(migrated), _save(migrated)
    _save(migrated, "db")

    rows = models.listing(migrated, "web")

    assert [(row.version, row.is_live) for row in rows] == [(second, True), (first, False)]
    assert (rows[0].bytes, rows[0].header, rows[0].created_at) == (len(ARTIFACT), {"seed": 1}, T0)
    assert len(models.listing(migrated)) == 3


@pytest.mark.parametrize("damaged", [ARTIFACT[:-1], ARTIFACT[:-1] + b"\x00", b""], ids=["cut", "one byte", "empty"])
def test_a_damaged_model_is_not_loaded(migrated: Engine, damaged: bytes) -> None:
    version = _save(migrated)
    with migrated.begin() as connection:
        connection.execute(update(model_part).where(model_part.c.version == version).values(data=damaged))

    with pytest.raises(ArtifactError, match=r"is damaged in the database .*; run: detector retrain"):
        models.load(migrated, version)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_model_that_has_lost_a_part_is_not_loaded(migrated: Engine, lost: int) -> None:
    version = _save(migrated, artifact=_bytes(parts.PART + 1))
    with migrated.begin() as connection:
        connection.execute(delete(model_part).where(model_part.c.version == version, model_part.c.part == lost))

    with pytest.raises(ArtifactError, match="is damaged in the database"):
        models.load(migrated, version)


def test_a_model_that_does_not_exist_says_where_to_look(migrated: Engine) -> None:
    with pytest.raises(ArtifactError, match="no model version 42; see: detector models list"):
        models.load(migrated, 42)


# lease


@pytest.fixture
def other_engine(migrated: Engine, database_url: str) -> Iterator[Engine]:
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def _acquire(engine: Engine, holder: str, now: int, name: str = "retrain-web") -> bool:
    return models.acquire_lease(engine, name, holder, now=now, expires_at=now + 100)


def test_a_lease_has_one_holder_at_a_time(migrated: Engine, other_engine: Engine) -> None:
    assert _acquire(migrated, "first", now=0)
    assert not _acquire(other_engine, "second", now=99)
    assert _acquire(migrated, "first", now=99)


def test_a_lease_that_expired_is_taken_over(migrated: Engine, other_engine: Engine) -> None:
    _acquire(migrated, "first", now=0)

    assert _acquire(other_engine, "second", now=100)
    assert not _acquire(migrated, "first", now=150)


def test_who_is_refused_a_lease_writes_nothing(migrated: Engine, other_engine: Engine) -> None:
    _acquire(migrated, "first", now=0)
    statements: list[str] = []
    event.listen(other_engine, "before_cursor_execute", lambda *args: statements.append(args[2].split()[0]))

    assert not _acquire(other_engine, "second", now=99)

    assert set(statements) == {"SELECT"}


def test_its_holder_may_take_a_lease_again_without_any_change(migrated: Engine) -> None:
    assert _acquire(migrated, "first", now=0)
    assert _acquire(migrated, "first", now=0)


def test_a_lease_given_back_is_free(migrated: Engine, other_engine: Engine) -> None:
    _acquire(migrated, "first", now=0)

    models.release_lease(migrated, "retrain-web", "first")

    assert _acquire(other_engine, "second", now=1)


def test_only_its_holder_gives_a_lease_back(migrated: Engine, other_engine: Engine) -> None:
    _acquire(migrated, "first", now=0)

    models.release_lease(other_engine, "retrain-web", "second")

    assert not _acquire(other_engine, "second", now=1)


def test_leases_of_different_names_do_not_touch(migrated: Engine) -> None:
    assert _acquire(migrated, "first", now=0)
    assert _acquire(migrated, "second", now=0, name="retrain-db")


def test_a_lease_on_a_database_without_tables_is_reported_in_one_line(engine: Engine) -> None:
    with pytest.raises(StoreError) as caught:
        _acquire(engine, "first", now=0)

    assert len(str(caught.value).splitlines()) == 1
