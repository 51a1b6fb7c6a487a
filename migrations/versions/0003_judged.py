"""What was judged: ranges of slots by entity, and the states to decide again from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('detector_judged',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('entity', sa.String(length=191), nullable=False),
    sa.Column('start', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('reason', sa.String(length=16), nullable=False),
    sa.PrimaryKeyConstraint('monitor', 'entity', 'start', name=op.f('pk_detector_judged')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
    sqlite_with_rowid=False
    )
    long_text = sa.Text().with_variant(mysql.LONGTEXT(), 'mysql', 'mariadb')
    with op.batch_alter_table('detector_cursor', schema=None) as batch_op:
        batch_op.add_column(sa.Column('checkpoint', long_text, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('detector_cursor', schema=None) as batch_op:
        batch_op.drop_column('checkpoint')
    op.drop_table('detector_judged')
