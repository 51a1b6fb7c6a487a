"""The port `Versions`: the same tests for versions in a database and for the double that use cases are tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from migrated import migrate
from sqlalchemy import update
from untrained import MemoryVersions, monitor_of, noise_history

from detector import database
from detector.config.sections import ModelSection, MonitorSection
from detector.errors import ModelError
from detector.models.fitting import MonitorFit
from detector.ports import ModelVersion, Versions
from detector.progress import silent
from detector.store import models
from detector.tables import model, model_part
from detector.train.division import Plan
from detector.train.fit import train
from detector.wiring import StoredVersions

NOW = 1_800_000_000_000
BASELINE = monitor_of(model=ModelSection(kind="baseline"))

Open = Callable[..., Versions]


@pytest.fixture(params=["memory", "database"])
def open_versions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Opens the versions of a monitor, each time as another process would."""
    if request.param == "memory":
        shared = MemoryVersions.Shared()
        yield lambda monitor=BASELINE: MemoryVersions(shared, monitor)
        return
    engine = database.connect(f"sqlite:///{tmp_path}/detector.db")
    migrate(engine)
    processes = iter(range(1, 1000))

    class OfAnotherProcess(StoredVersions):
        def __init__(self, monitor: MonitorSection) -> None:
            super().__init__(engine, monitor)
            self._process = next(processes)

        def hold(self, now: int) -> Any:
            monkeypatch.setattr("os.getpid", lambda: self._process)
            return super().hold(now)

    yield lambda monitor=BASELINE: OfAnotherProcess(monitor)
    engine.dispose()


@pytest.fixture
def versions(open_versions: Open) -> Versions:
    return open_versions()


@pytest.fixture(scope="module")
def trained() -> ModelVersion:
    """A baseline of two entities, not stored yet."""
    return train(Plan.of(BASELINE), noise_history(400), MonitorFit(BASELINE), progress=silent)


def test_a_monitor_without_versions_has_no_live_one(versions: Versions) -> None:
    assert versions.live_number() is None
    assert versions.newest_number() is None
    assert versions.live() is None


def test_a_saved_version_is_live_and_complete(versions: Versions, trained: ModelVersion) -> None:
    number = versions.save(trained, NOW)

    live = versions.live()
    assert live is not None
    assert versions.live_number() == live.version == number
    assert live.kind == "baseline"
    saved, loaded = trained.artifact, live.artifact
    assert loaded.entities == saved.entities
    np.testing.assert_array_equal(loaded.noise, saved.noise)
    np.testing.assert_array_equal(loaded.fleet_noise, saved.fleet_noise)
    np.testing.assert_array_equal(loaded.freeze_limits, saved.freeze_limits)
    np.testing.assert_array_equal(loaded.calibration.start, saved.calibration.start)
    np.testing.assert_array_equal(loaded.calibration.fleet_decay, saved.calibration.fleet_decay)


def test_what_entities_have_shown_in_training_is_saved_to_the_last_bit(
    versions: Versions, trained: ModelVersion
) -> None:
    loaded, saved = versions.load(versions.save(trained, NOW)).artifact, trained.artifact

    columns = saved.experience.columns()
    assert loaded.experience.columns().keys() == columns.keys()
    for name, array in columns.items():
        np.testing.assert_array_equal(loaded.experience.columns()[name], array, err_msg=name)
    for part in ("usual", "shapes", "tails"):
        found, written = getattr(loaded.habits, part), getattr(saved.habits, part)
        for column in fields(written):
            name = column.name
            np.testing.assert_array_equal(getattr(found, name), getattr(written, name), err_msg=name)


def test_a_saved_version_says_when_it_was_made(versions: Versions, trained: ModelVersion) -> None:
    provenance = versions.load(versions.save(trained, NOW)).artifact.provenance

    assert provenance["created_at"] == NOW
    assert {name: provenance[name] for name in trained.artifact.provenance} == trained.artifact.provenance


def test_the_newest_version_is_live_and_older_ones_can_be_loaded(versions: Versions, trained: ModelVersion) -> None:
    first = versions.save(trained, NOW)
    second = versions.save(trained, NOW + 1)

    assert versions.live_number() == second > first
    assert versions.load(first).version == first


def test_the_newest_number_is_of_the_monitor_alone(open_versions: Open, trained: ModelVersion) -> None:
    other = open_versions(BASELINE.model_copy(update={"name": "other"}))
    first, second = open_versions().save(trained, NOW), open_versions().save(trained, NOW)
    other.save(trained, NOW)

    assert open_versions().newest_number() == second > first


def test_a_version_made_for_other_settings_is_not_live(open_versions: Open, trained: ModelVersion) -> None:
    open_versions().save(trained, NOW)

    longer = open_versions(BASELINE.model_copy(update={"timesteps": 20}))

    assert longer.live() is None
    assert longer.live_number() is not None


def test_versions_of_another_monitor_are_its_own(open_versions: Open, trained: ModelVersion) -> None:
    open_versions().save(trained, NOW)

    assert open_versions(BASELINE.model_copy(update={"name": "other"})).live_number() is None


def test_one_process_at_a_time_makes_versions_of_a_monitor(open_versions: Open) -> None:
    mine, others = open_versions(), open_versions()

    with (
        mine.hold(NOW),
        pytest.raises(ModelError, match="monitor 'web' is being trained by another process"),
        others.hold(NOW),
    ):
        pytest.fail("both hold it")

    with others.hold(NOW):
        pass


def test_a_training_that_fails_gives_the_right_back(open_versions: Open) -> None:
    with pytest.raises(ZeroDivisionError), open_versions().hold(NOW):
        raise ZeroDivisionError

    with open_versions().hold(NOW):
        pass


def test_monitors_are_trained_at_the_same_time(open_versions: Open) -> None:
    with open_versions().hold(NOW), open_versions(BASELINE.model_copy(update={"name": "other"})).hold(NOW):
        pass


def test_the_right_of_a_process_that_was_killed_expires(open_versions: Open) -> None:
    held = open_versions().hold(NOW)
    held.__enter__()  # and never left

    with open_versions().hold(NOW + 7_200_000):  # `training.timeout`: two hours
        pass


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[StoredVersions]:
    engine = database.connect(f"sqlite:///{tmp_path}/detector.db")
    migrate(engine)
    yield StoredVersions(engine, BASELINE)
    engine.dispose()


@pytest.mark.parametrize("right_checksum", [True, False])
def test_the_last_good_version_goes_on_while_the_live_one_is_damaged(
    stored: StoredVersions, trained: ModelVersion, right_checksum: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good, newest = stored.save(trained, NOW), stored.save(trained, NOW + 1)
    damaged = b"no model"
    with stored._engine.begin() as connection:
        connection.execute(update(model_part).where(model_part.c.version == newest).values(data=damaged))
        if right_checksum:
            checksum = hashlib.sha256(damaged).hexdigest()
            connection.execute(update(model).where(model.c.version == newest).values(sha256=checksum))

    live = stored.live()

    assert live is not None
    assert (live.version, stored.live_number()) == (good, newest)
    assert [line.split(" reason=")[0] for line in caplog.messages] == [
        f"event=model_refused monitor=web version={newest}"
    ]


def test_a_damaged_header_does_not_keep_the_others_from_being_listed(
    stored: StoredVersions, trained: ModelVersion
) -> None:
    stored.save(trained, NOW)
    second = stored.save(trained, NOW + 1)
    with stored._engine.begin() as connection:
        connection.execute(update(model).where(model.c.version == second).values(header="{"))

    assert [bool(row.header) for row in models.listing(stored._engine)] == [False, True]
