"""What a monitor does, or what it waits for, in a sentence: from the first minute on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from detector.config.sections import MonitorSection
from detector.core.series import Reason
from detector.export.prometheus import MonitorView
from detector.web.live import Status
from detector.wording import amount

_LATE_STEPS = 5  # slots, beyond `delay`, after which the newest sample is old


def stage(section: MonitorSection, view: MonitorView, status: Status, now: int) -> tuple[str, bool]:
    """The sentence, and whether there is nothing to look after. now: epoch milliseconds"""
    if status.failure is not None:
        return f"The newest tick failed: {status.failure}", False
    if not status.has_ticked:
        return "Has just started: its first tick has not ended yet.", True
    if view.model_version is None:
        return _without_model(section, view, status, now)
    if view.newest_sample is not None and now - view.newest_sample > _late(section):
        return f"Its newest sample is {age(now - view.newest_sample)} old: is the source still written to?", False
    return _scoring(section, view, status, now)


def _late(section: MonitorSection) -> int:
    return int((section.delay + _LATE_STEPS * section.step) / timedelta(milliseconds=1))


def _without_model(section: MonitorSection, view: MonitorView, status: Status, now: int) -> tuple[str, bool]:
    seen = f"Sees {amount(len(view.entities), 'entity')}; " if view.entities else ""
    if status.training is not None:
        return f"{seen}trains its first model, {_progress(status)}. It scores as soon as that is ready.", True
    if status.missed_training is not None:
        return f"{seen}its training failed: {status.missed_training}", False
    if status.needed and not status.slots:
        return "Waits for the first samples: its source has none yet.", True
    if status.needed:
        return f"{seen}{_collecting(section, status, now)}, then trains a model and scores.", True
    if section.retrain == "off":
        return f"{seen}has no model and trains none by itself. Run: detector retrain {section.name}", False
    return f"{seen}has no model yet.", True


def _scoring(section: MonitorSection, view: MonitorView, status: Status, now: int) -> tuple[str, bool]:
    known = 0 if view.reason is None else int((view.reason == Reason.KNOWN).sum())
    words = [f"Scores {known} of {amount(len(view.entities), 'entity')} with a {view.model_kind}"]
    if status.training is not None:
        words.append(f"trains a new model, {_progress(status)}")
    elif status.needed:
        words.append(f"{_collecting(section, status, now)} for a network")
    if status.promise is not None:
        words.append(f"its alert budget {status.promise}")
    sentence = "; ".join(words) + "."
    if status.missed_training is not None:
        return f"{sentence} Its newest training failed: {status.missed_training}", False
    return sentence, True


def _collecting(section: MonitorSection, status: Status, now: int) -> str:
    left = max(0, status.needed - status.slots) * section.step_ms
    until = datetime.fromtimestamp((now + left) / 1000, UTC)
    when = f"{until:%H:%M}" if left < 12 * 3_600_000 else f"{until:%F %H:%M}"
    return f"has {status.slots} of the {status.needed} slots it needs (until about {when} UTC)"


def _progress(status: Status) -> str:
    doing = f": {status.training}" if status.training else ""
    return f"{status.trained:.0%}{doing}"


def age(milliseconds: int) -> str:
    """A time that has passed, in its largest unit."""
    seconds = max(0, milliseconds) // 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
