"""Return periods: what entities have shown, and the surprise of each slot beside its score."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('detector_experience',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('slot', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('data', sa.LargeBinary().with_variant(mysql.LONGBLOB(), 'mysql', 'mariadb'), nullable=False),
    sa.PrimaryKeyConstraint('monitor', 'slot', name=op.f('pk_detector_experience')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin'
    )
    op.add_column('detector_score', sa.Column('surprise', sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.drop_column('detector_score', 'surprise')
    op.drop_table('detector_experience')
