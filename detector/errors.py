"""Every error this program raises on purpose, and the exit status each one ends a command with.

Two questions shape the tree: whose fault is it, and may it be retried?

    exit status
    0   done
    1   failed for a reason of the outside world (a database is down, training failed)
    2   the command line or the configuration is wrong
    3   `detector alerts list --open` found open alerts, or the database is missing or has an outdated schema
    130 interrupted by Ctrl-C

A message says what was expected, what was received, and what to do.
"""


class DetectorError(Exception):
    """Base of all errors that a user is meant to read; printed as one line, without a traceback."""

    exit_status = 1


class ConfigError(DetectorError):
    """The configuration or command line is wrong; nothing was started."""

    exit_status = 2


class SourceError(DetectorError):
    """The source answered, but not with what was configured (no such column, wrong type)."""


class SourceUnavailable(SourceError):
    """The source did not answer; the next tick tries again."""


class ModelError(DetectorError):
    """A model could not be trained or does not fit its monitor."""


class ArtifactError(ModelError):
    """Stored model bytes are damaged or of a format this version does not read."""


class StoreError(DetectorError):
    """The detector's own database refused or did not answer; the next tick tries again."""


class StaleState(StoreError):
    """Another process has changed the stored state in the meantime; read it again and go on from there."""


class SchemaOutdated(StoreError):
    """The database is missing, or its tables are not those of this version; run: detector db upgrade."""

    exit_status = 3


class NotifyError(DetectorError):
    """The target of a notification answered, but refused it; the notification stays in the outbox."""


class NotifyUnavailable(NotifyError):
    """The target did not answer, or asked to try later; everything that waits for it is sent later."""
