"""Life cycle of alerts, outbox of notifications, recurring exclusions."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def _alert_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column('decided_slot', sa.BigInteger(), nullable=False, server_default='0'),
        sa.Column('closed_at', sa.BigInteger(), nullable=True),
        sa.Column('closed_by', sa.String(length=191), nullable=True),
        sa.Column('verdict', sa.String(length=16), nullable=True),
        sa.Column('reopenings', sa.Integer(), nullable=False, server_default='0'),
        sa.Column('is_muted', sa.SmallInteger(), nullable=False, server_default='0'),
        sa.Column('incident', sa.BigInteger(), nullable=True),
    )


def _exclusion_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column('rule', sa.Text(), nullable=True),
        sa.Column('time_zone', sa.String(length=64), nullable=False, server_default='UTC'),
        sa.Column('created_at', sa.BigInteger(), nullable=False, server_default='0'),
        sa.Column('created_by', sa.String(length=191), nullable=True),
    )


def upgrade() -> None:
    with op.batch_alter_table('detector_alert', schema=None) as batch_op:
        for column in _alert_columns():
            batch_op.add_column(column)
        batch_op.create_index(batch_op.f('ix_detector_alert_monitor_closed_slot'), ['monitor', 'closed_slot'], unique=False)
        batch_op.create_index(batch_op.f('ix_detector_alert_incident'), ['incident'], unique=False)
    alert = sa.table('detector_alert', *(sa.column(name) for name in ('id', 'opened_slot', 'decided_slot', 'incident')))
    op.execute(sa.update(alert).values(decided_slot=alert.c.opened_slot, incident=alert.c.id))

    with op.batch_alter_table('detector_alert_event', schema=None) as batch_op:
        batch_op.drop_column('sent_at')
        batch_op.add_column(sa.Column('by', sa.String(length=191), nullable=True))
        batch_op.add_column(sa.Column('detail', sa.Text(), nullable=True))

    with op.batch_alter_table('detector_exclusion', schema=None) as batch_op:
        for column in _exclusion_columns():
            batch_op.add_column(column)

    if op.get_context().dialect.name in ('mysql', 'mariadb'):
        for table in ('detector_alert_event', 'detector_exclusion'):
            op.execute(f'ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin')

    op.create_table('detector_delivery',
    sa.Column('event_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=False, nullable=False),
    sa.Column('notifier', sa.String(length=64), nullable=False),
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('state', sa.String(length=16), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('next_at', sa.BigInteger(), nullable=False),
    sa.Column('sent_at', sa.BigInteger(), nullable=True),
    sa.Column('error', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['event_id'], ['detector_alert_event.id'], name=op.f('fk_detector_delivery_event_id_detector_alert_event')),
    sa.PrimaryKeyConstraint('event_id', 'notifier', name=op.f('pk_detector_delivery'))
    )
    with op.batch_alter_table('detector_delivery', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_delivery_state_next_at'), ['state', 'next_at'], unique=False)


def downgrade() -> None:
    op.drop_table('detector_delivery')
    with op.batch_alter_table('detector_exclusion', schema=None) as batch_op:
        for column in _exclusion_columns():
            batch_op.drop_column(column.name)
    with op.batch_alter_table('detector_alert_event', schema=None) as batch_op:
        batch_op.drop_column('detail')
        batch_op.drop_column('by')
        batch_op.add_column(sa.Column('sent_at', sa.BigInteger(), nullable=True))
    with op.batch_alter_table('detector_alert', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_detector_alert_incident'))
        batch_op.drop_index(batch_op.f('ix_detector_alert_monitor_closed_slot'))
        for column in _alert_columns():
            batch_op.drop_column(column.name)
