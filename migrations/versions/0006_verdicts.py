"""Alerts with a verdict are found without looking at all of them: every tick asks for them."""

from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('detector_alert', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_detector_alert_monitor_verdict'), ['monitor', 'verdict'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('detector_alert', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_detector_alert_monitor_verdict'))
