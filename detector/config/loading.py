"""`config.toml` read, expanded and validated; all errors are reported at once, with the nearest known key."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detector.config import urls
from detector.config.sections import (
    AlertmanagerNotifier,
    Config,
    DatabaseSection,
    DecisionSection,
    DisplaySection,
    EmbeddedSource,
    ExportSection,
    HostSource,
    ModelSection,
    MonitorSection,
    NotifierSection,
    PrometheusSource,
    RuleSection,
    Section,
    SqlSource,
    ThresholdSection,
    TrainingSection,
    WebhookNotifier,
)
from detector.errors import ConfigError


@dataclass(frozen=True)
class Service:
    """Where the installed service keeps its configuration and its state."""

    config: Path
    folders: tuple[Path, ...]  # of its state, the first that this user sees is the one


# systemd's StateDirectory=detector; with DynamicUser=yes it is in private/, with a link from the usual place
SERVICE = Service(Path("/etc/detector/config.toml"), (Path("/var/lib/detector"), Path("/var/lib/private/detector")))

DEFAULT_PATHS = (Path("config.toml"), SERVICE.config)


def find(path: Path | None) -> Path:
    """The configuration file to use: the one named, $DETECTOR_CONFIG, ./config.toml, /etc/detector/config.toml."""
    named = path or (Path(os.environ["DETECTOR_CONFIG"]) if os.environ.get("DETECTOR_CONFIG") else None)
    candidates = (named,) if named else DEFAULT_PATHS
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = " and ".join(str(candidate) for candidate in candidates)
    msg = f"no configuration file found at {tried}; name one with --config FILE"
    raise ConfigError(msg)


def load(path: Path, environment: Mapping[str, str] | None = None, *, service: Service | None = None) -> Config:
    """Reads and validates a configuration file.

    A command run by hand reads the service's configuration without the $STATE_DIRECTORY that systemd gives the service:
    then it is the folder of the service's state, so that the command finds the service's database.

    Raises: ConfigError listing all errors, one per line.
    """
    environment = os.environ if environment is None else environment
    folder = _state_folder(path, environment, service or SERVICE)
    if folder is not None:
        environment = {**environment, "STATE_DIRECTORY": str(folder)}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:  # also a number of too many digits
        msg = f"{path}: cannot be read as TOML: {exc}"
        raise ConfigError(msg) from exc
    except RecursionError:
        raise ConfigError(f"{path}: cannot be read as TOML: it is nested too deeply") from None
    missing: list[str] = []
    try:
        data = _expand(data, environment, missing)
        config = Config.model_validate(data)
    except RecursionError:
        raise ConfigError(f"{path}: cannot be read: it is nested too deeply") from None
    except ValidationError as exc:
        raise ConfigError("\n".join(f"{path}: {line}" for line in [*missing, *_lines(exc)])) from None
    if missing:
        raise ConfigError("\n".join(f"{path}: {line}" for line in missing))
    return config


def _is_by_hand(path: Path, environment: Mapping[str, str], service: Service) -> bool:
    """Whether the service's configuration is read by a command that systemd did not start."""
    return not environment.get("STATE_DIRECTORY") and path.resolve() == service.config.resolve()


def _state_folder(path: Path, environment: Mapping[str, str], service: Service) -> Path | None:
    """The folder of the service's state for a command run by hand; None if it is not needed or not seen."""
    if not _is_by_hand(path, environment, service):
        return None
    return next((folder for folder in service.folders if os.path.isdir(folder)), None)


def is_guessed(path: Path, environment: Mapping[str, str] | None = None, *, service: Service | None = None) -> bool:
    """Whether a configuration names its files by $STATE_DIRECTORY, but this user does not see the service's folder."""
    environment, service = os.environ if environment is None else environment, service or SERVICE
    if not _is_by_hand(path, environment, service) or _state_folder(path, environment, service) is not None:
        return False
    return "${STATE_DIRECTORY" in path.read_text(encoding="utf-8")


def monitor(table: Mapping[str, Any], assignments: Sequence[str] = ()) -> MonitorSection:
    """The monitor of a table, with values replaced by assignments such as `training.epochs=5`, as `--set` takes them.

    The value after the = is TOML, or plain text if it is not valid TOML.

    Raises: ConfigError listing all errors, one per line.
    """
    changed = dict(table)
    for assignment in assignments:
        key, is_assignment, written = assignment.partition("=")
        if not is_assignment:
            msg = f"--set must be KEY=VALUE, such as training.epochs=5. Received: {assignment!r}"
            raise ConfigError(msg)
        changed = _with(changed, key.strip().split("."), _toml_or_text(written))
    data = {"database": {"url": "sqlite://"}, "monitors": [changed]}
    try:
        return Config.model_validate(data).monitors[0]
    except ValidationError as exc:
        lines = (line.removeprefix("monitors[0].") for line in _lines(exc))
        raise ConfigError("\n".join(f"--set {line}" for line in lines)) from None


def _with(table: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of a table with one value replaced, however deep."""
    key, *rest = path
    inner = table.get(key)
    return {**table, key: _with(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _toml_or_text(written: str) -> Any:
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def secret(
    section: DatabaseSection | SqlSource | PrometheusSource | NotifierSection,
    environment: Mapping[str, str] | None = None,
    *,
    key: str = "url",
) -> str:
    """The URL (or another key) of a section, read from its `url_file` if that is set; "" if neither is set.

    A relative file is looked up in $CREDENTIALS_DIRECTORY (systemd's LoadCredential) first.
    """
    file = str(getattr(section, f"{key}_file"))
    if not file:
        return str(getattr(section, key))
    try:
        path = _credential(file, os.environ if environment is None else environment)
        if path is not None:
            return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        msg = f"{key}_file: {file!r} cannot be read: {why}"
        raise ConfigError(msg) from None  # the cause may show what the file holds
    msg = f"{key}_file: no file {file!r} here or in $CREDENTIALS_DIRECTORY; create it or set `{key}`"
    raise ConfigError(msg)


def _credential(file: str, environment: Mapping[str, str]) -> Path | None:
    """Where a file with something secret is: in $CREDENTIALS_DIRECTORY or here."""
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    candidates = (Path(folder, file) if folder else None, Path(file))
    return next((path for path in candidates if path is not None and os.path.isfile(path)), None)


def web_config(section: ExportSection, environment: Mapping[str, str] | None = None) -> Path | None:
    """The web configuration file, None if there is to be none. Raises: ConfigError if it is missing."""
    if not section.web_config:
        return None
    path = _credential(section.web_config, os.environ if environment is None else environment)
    if path is None:
        msg = f"export.web_config: no file {section.web_config!r} here or in $CREDENTIALS_DIRECTORY"
        raise ConfigError(msg)
    return path.resolve()


_PLACEHOLDER = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _expand(value: Any, environment: Mapping[str, str], missing: list[str], *, where: str = "") -> Any:
    """Replaces ${NAME} and ${NAME:-default} in every string; names that are not set are collected in `missing`.

    What is put into a part of a URL is percent-encoded, so that a password may hold any character.
    """
    if isinstance(value, dict):
        return {
            key: _expand(item, environment, missing, where=f"{where}.{key}".lstrip(".")) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, environment, missing, where=f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    encode = urls.encoder(value, _PLACEHOLDER) if where.rpartition(".")[2] == "url" else None

    def replace(match: re.Match[str]) -> str:
        found = environment.get(match[1]) or match[2]
        if found is None:
            missing.append(f"{where}: environment variable {match[1]} must be set (or write ${{{match[1]}:-default}})")
            return ""
        return found if encode is None else encode(match.start(), found)

    return _PLACEHOLDER.sub(replace, value)


def filled(url: str) -> str:
    """A URL with the values of the environment in place of ${NAME}. Raises: ConfigError if one is not set."""
    missing: list[str] = []
    found = str(_expand(url, os.environ, missing, where="url"))
    if missing:
        raise ConfigError("\n".join(missing))
    return found


_GONE = {
    "monitors.recalibrate": "no longer needed, since alerts adapt to what was seen lately; leave it out",
    "monitors.decision.open_at_once": "write `score_at_once`, 2.0 unless you know better: scores have another scale",
    "monitors.decision.close_below": "write `score_calm`, 0.875 unless you know better: scores have another scale",
    "monitors.decision.critical_at": "write `score_critical`, 3.0 unless you know better: scores have another scale",
}
"""Keys that earlier versions had, without the places in lists, and what to do about each."""


_EXPECTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list: […] of values, [[…]] of tables"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text in quotes",
}
"""What a value must be, by pydantic's name of the error, whose own words are of Python's types."""


def _dotted(location: list[str | int]) -> str:
    return ".".join(part for part in location if isinstance(part, str))


def _lines(exc: ValidationError) -> Iterator[str]:
    """One line per error: key path, what is wrong, what was received."""
    errors = exc.errors()
    refused = {error["loc"][0] for error in errors if len(error["loc"]) > 1}
    for error in errors:
        if error["type"] == "too_short" and error["loc"][0] in refused:
            continue  # refused items also count as missing
        location = _without_tags(error["loc"])
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "file"
        message = _EXPECTED.get(error["type"], error["msg"].removeprefix("Value error, "))
        if error["type"] == "extra_forbidden" and (dotted := _dotted(location)) in _GONE:
            yield f"{where}: {_GONE[dotted]}"
        elif error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), sorted(_field_names(location)), n=1, cutoff=0.0)
            yield f"{where}: unknown key; the nearest known one is `{near[0]}`" if near else f"{where}: unknown key"
        elif error["type"] == "missing":
            yield f"{where}: must be set"
        elif isinstance(error["input"], str | int | float | bool) and not _may_hold_password(location, error["input"]):
            yield f"{where}: {message[0].lower() + message[1:]}. Received: {error['input']!r}"
        else:
            yield f"{where}: {message[0].lower() + message[1:]}"


def _may_hold_password(location: list[str | int], value: object) -> bool:
    return location[-1] in {"url", "secret", "token"} or "://" in str(value)


def _without_tags(location: tuple[int | str, ...]) -> list[int | str]:
    """A location as the file has it: pydantic puts the type of a source or notifier after its place."""
    return [
        part
        for index, part in enumerate(location)
        if not (index > 0 and location[index - 1] == "source") and not (index == 2 and location[0] == "notifiers")
    ]


_SECTIONS: dict[str, tuple[type[Section], ...]] = {
    "": (Config,),
    "database": (DatabaseSection,),
    "export": (ExportSection,),
    "display": (DisplaySection,),
    "monitors": (MonitorSection,),
    "source": (SqlSource, PrometheusSource, EmbeddedSource, HostSource),
    "model": (ModelSection,),
    "training": (TrainingSection,),
    "threshold": (ThresholdSection,),
    "decision": (DecisionSection,),
    "rules": (RuleSection,),
    "notifiers": (AlertmanagerNotifier, WebhookNotifier),
}


def _field_names(location: list[str | int]) -> set[str]:
    """Known keys of the table a location lies in."""
    tables = [part for part in location[:-1] if isinstance(part, str)]
    sections = _SECTIONS.get(tables[-1] if tables else "", ())
    return {name for section in sections for name in section.model_fields}
