"""Every table of the detector's own database. Times are epoch milliseconds, UTC; changes need a migration."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER primary keys
Name = String(191)  # what MySQL can index under utf8mb4
LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
Blob = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
Double = Float(53)

series = Table(
    "detector_series",
    metadata,
    Column("id", Key, primary_key=True),
    Column("monitor", String(64), nullable=False),
    Column("entity", Name, nullable=False),
    Column("metric", Name, nullable=False),
    UniqueConstraint("monitor", "entity", "metric"),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

sample = Table(
    "detector_sample",
    metadata,
    Column("series_id", Key, ForeignKey("detector_series.id"), primary_key=True, autoincrement=False),
    Column("ts", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double, nullable=True),
    Index(None, "ts", postgresql_using="brin").ddl_if(dialect="postgresql"),
    sqlite_with_rowid=False,
)

score = Table(
    "detector_score",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("entity", Name, primary_key=True),
    Column("score", Double, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("surprise", Double, nullable=True),  # NULL: stored by a version that did not know it
    sqlite_with_rowid=False,
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

experience_part = Table(
    "detector_experience_part",  # what entities had shown before a slot: a restarted daemon goes on from it
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),  # from 0; all of them make the whole
    Column("model_version", BigInteger, nullable=False),
    Column("data", Blob, nullable=False),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

alert = Table(
    "detector_alert",
    metadata,
    Column("id", Key, primary_key=True),
    Column("monitor", String(64), nullable=False),
    Column("entity", Name, nullable=False),
    Column("open_entity", Name, nullable=True),  # the entity while open, NULL after: unique, so one open alert each
    Column("opened_slot", BigInteger, nullable=False),
    Column("decided_slot", BigInteger, nullable=False),
    Column("detected_at", BigInteger, nullable=False),
    Column("closed_slot", BigInteger, nullable=True),  # NULL while its episode goes on, even if a person closed it
    Column("state", String(16), nullable=False),  # open, acknowledged, closed, withdrawn
    Column("severity", String(16), nullable=False),
    Column("peak_score", Double, nullable=False),
    Column("peak_slot", BigInteger, nullable=False),
    Column("explanation", LongText, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("acknowledged_at", BigInteger, nullable=True),
    Column("acknowledged_by", Name, nullable=True),
    Column("closed_at", BigInteger, nullable=True),
    Column("closed_by", Name, nullable=True),  # who closed it, or why it closed by itself: normal, unknown, gone
    Column("comment", Text, nullable=True),
    Column("verdict", String(16), nullable=True),  # real, false
    Column("reopenings", Integer, nullable=False),
    Column("is_muted", SmallInteger, nullable=False),
    Column("incident", BigInteger, nullable=True),  # id of the first alert of the group that opened together
    Column("revision", Integer, nullable=False),  # counts every change: compare and swap
    UniqueConstraint("monitor", "open_entity"),
    Index(None, "monitor", "opened_slot"),
    Index(None, "monitor", "closed_slot"),
    Index(None, "monitor", "verdict"),
    Index(None, "incident"),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

alert_event = Table(
    "detector_alert_event",
    metadata,
    Column("id", Key, primary_key=True),
    Column("alert_id", Key, ForeignKey("detector_alert.id"), nullable=False, index=True),
    Column("change", String(16), nullable=False),
    Column("slot", BigInteger, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("peak_score", Double, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("by", Name, nullable=True),  # who, if it was a person
    Column("detail", Text, nullable=True),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

delivery = Table(  # the outbox: events for notifiers, stored with the events
    "detector_delivery",
    metadata,
    Column("event_id", Key, ForeignKey("detector_alert_event.id"), primary_key=True, autoincrement=False),
    Column("notifier", String(64), primary_key=True),
    Column("monitor", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # pending, sent, dead
    Column("attempts", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),  # not before
    Column("sent_at", BigInteger, nullable=True),
    Column("error", Text, nullable=True),  # of the last attempt
    Index(None, "state", "next_at"),
)

cursor = Table(
    "detector_cursor",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("slot", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("checkpoint", LongText, nullable=True),  # JSON: the alerts' states before the slots late rows may change
)

judged = Table(  # ranges of slots by what is known of an entity: each lasts until its next one, or the cursor
    "detector_judged",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("entity", Name, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", String(16), nullable=False),  # known, or why it is unknown
    sqlite_with_rowid=False,
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

model = Table(
    "detector_model",
    metadata,
    Column("version", Key, primary_key=True),
    Column("monitor", String(64), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("is_live", SmallInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("header", LongText, nullable=False),
)

model_part = Table(  # the artifacts; no foreign key: rebuilding its parent, as SQLite does, would remove its rows
    "detector_model_part",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("data", Blob, nullable=False),
)

exclusion = Table(
    "detector_exclusion",
    metadata,
    Column("id", Key, primary_key=True),
    Column("monitor", String(64), nullable=False, index=True),
    Column("entity", Name, nullable=True),  # glob; NULL: all
    Column("metric", Name, nullable=True),  # glob; NULL: all
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=True),  # NULL: open-ended
    Column("effect", String(16), nullable=False),  # mute, mask, both
    Column("rule", Text, nullable=True),  # RFC 5545 recurrence rule of [start_at, end_at)
    Column("time_zone", String(64), nullable=False),  # whose clock the rule follows
    Column("comment", Text, nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Name, nullable=True),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)

lease = Table(
    "detector_lease",
    metadata,
    Column("name", Name, primary_key=True),
    Column("holder", Name, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
