"""Initial tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('detector_alert',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('entity', sa.String(length=191), nullable=False),
    sa.Column('open_entity', sa.String(length=191), nullable=True),
    sa.Column('opened_slot', sa.BigInteger(), nullable=False),
    sa.Column('detected_at', sa.BigInteger(), nullable=False),
    sa.Column('closed_slot', sa.BigInteger(), nullable=True),
    sa.Column('state', sa.String(length=16), nullable=False),
    sa.Column('severity', sa.String(length=16), nullable=False),
    sa.Column('peak_score', sa.Float(precision=53), nullable=False),
    sa.Column('peak_slot', sa.BigInteger(), nullable=False),
    sa.Column('explanation', sa.Text().with_variant(mysql.LONGTEXT(), 'mariadb').with_variant(mysql.LONGTEXT(), 'mysql'), nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('acknowledged_at', sa.BigInteger(), nullable=True),
    sa.Column('acknowledged_by', sa.String(length=191), nullable=True),
    sa.Column('comment', sa.Text(), nullable=True),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_detector_alert')),
    sa.UniqueConstraint('monitor', 'open_entity', name=op.f('uq_detector_alert_monitor_open_entity')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin'
    )
    with op.batch_alter_table('detector_alert', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_alert_monitor_opened_slot'), ['monitor', 'opened_slot'], unique=False)

    op.create_table('detector_cursor',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('slot', sa.BigInteger(), nullable=False),
    sa.Column('updated_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('monitor', name=op.f('pk_detector_cursor'))
    )
    op.create_table('detector_exclusion',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('entity', sa.String(length=191), nullable=True),
    sa.Column('metric', sa.String(length=191), nullable=True),
    sa.Column('start_at', sa.BigInteger(), nullable=False),
    sa.Column('end_at', sa.BigInteger(), nullable=True),
    sa.Column('effect', sa.String(length=16), nullable=False),
    sa.Column('comment', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_detector_exclusion'))
    )
    with op.batch_alter_table('detector_exclusion', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_exclusion_monitor'), ['monitor'], unique=False)

    op.create_table('detector_lease',
    sa.Column('name', sa.String(length=191), nullable=False),
    sa.Column('holder', sa.String(length=191), nullable=False),
    sa.Column('expires_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_detector_lease'))
    )
    op.create_table('detector_model',
    sa.Column('version', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('is_live', sa.SmallInteger(), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.Column('header', sa.Text().with_variant(mysql.LONGTEXT(), 'mariadb').with_variant(mysql.LONGTEXT(), 'mysql'), nullable=False),
    sa.Column('artifact', sa.LargeBinary().with_variant(mysql.LONGBLOB(), 'mariadb').with_variant(mysql.LONGBLOB(), 'mysql'), nullable=False),
    sa.PrimaryKeyConstraint('version', name=op.f('pk_detector_model'))
    )
    with op.batch_alter_table('detector_model', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_model_monitor'), ['monitor'], unique=False)

    op.create_table('detector_score',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('slot', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('entity', sa.String(length=191), nullable=False),
    sa.Column('score', sa.Float(precision=53), nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('monitor', 'slot', 'entity', name=op.f('pk_detector_score')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
    sqlite_with_rowid=False
    )
    op.create_table('detector_series',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('entity', sa.String(length=191), nullable=False),
    sa.Column('metric', sa.String(length=191), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_detector_series')),
    sa.UniqueConstraint('monitor', 'entity', 'metric', name=op.f('uq_detector_series_monitor_entity_metric')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin'
    )
    op.create_table('detector_alert_event',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('alert_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('change', sa.String(length=16), nullable=False),
    sa.Column('slot', sa.BigInteger(), nullable=False),
    sa.Column('severity', sa.String(length=16), nullable=False),
    sa.Column('peak_score', sa.Float(precision=53), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('sent_at', sa.BigInteger(), nullable=True),
    sa.ForeignKeyConstraint(['alert_id'], ['detector_alert.id'], name=op.f('fk_detector_alert_event_alert_id_detector_alert')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_detector_alert_event'))
    )
    with op.batch_alter_table('detector_alert_event', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_alert_event_alert_id'), ['alert_id'], unique=False)

    op.create_table('detector_sample',
    sa.Column('series_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=False, nullable=False),
    sa.Column('ts', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('value', sa.Float(precision=53), nullable=True),
    sa.ForeignKeyConstraint(['series_id'], ['detector_series.id'], name=op.f('fk_detector_sample_series_id_detector_series')),
    sa.PrimaryKeyConstraint('series_id', 'ts', name=op.f('pk_detector_sample')),
    sqlite_with_rowid=False
    )
    if op.get_context().dialect.name == 'postgresql':
        # a block range index: 32 kB that make reads of recent times independent of how much history there is
        op.create_index(op.f('ix_detector_sample_ts'), 'detector_sample', ['ts'], unique=False, postgresql_using='brin')



def downgrade() -> None:
    for table in ('sample', 'alert_event', 'series', 'score', 'model', 'lease', 'exclusion', 'cursor', 'alert'):
        op.drop_table(f'detector_{table}')
