"""Model versions and experiences in parts, which every server takes however large the whole is."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

PART = 1 << 20  # bytes
BLOB = sa.LargeBinary().with_variant(mysql.LONGBLOB(), 'mysql', 'mariadb')


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


MODEL = _table('detector_model', 'version', 'artifact')
MODEL_PART = _table('detector_model_part', 'version', 'part', 'data')
EXPERIENCE = _table('detector_experience', 'monitor', 'slot', 'model_version', 'data')
EXPERIENCE_PART = _table('detector_experience_part', 'monitor', 'slot', 'part', 'model_version', 'data')


def upgrade() -> None:
    op.create_table('detector_model_part',
    sa.Column('version', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('part', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('data', BLOB, nullable=False),
    sa.PrimaryKeyConstraint('version', 'part', name=op.f('pk_detector_model_part'))
    )
    op.create_table('detector_experience_part',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('slot', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('part', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('data', BLOB, nullable=False),
    sa.PrimaryKeyConstraint('monitor', 'slot', 'part', name=op.f('pk_detector_experience_part')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin'
    )
    _split(MODEL.c.artifact, MODEL_PART, MODEL.c.version)
    _split(EXPERIENCE.c.data, EXPERIENCE_PART, EXPERIENCE.c.monitor, EXPERIENCE.c.slot, EXPERIENCE.c.model_version)
    op.drop_table('detector_experience')
    with op.batch_alter_table('detector_model', schema=None) as batch_op:
        batch_op.drop_column('artifact')


def _split(whole: Any, parts: sa.TableClause, *owner: Any) -> None:
    """Copies the bytes of all rows, within the database: all first parts, all second ones, and so on."""
    bind = op.get_bind()
    columns = [*(column.name for column in owner), 'part', 'data']
    longest = bind.scalar(sa.select(sa.func.max(sa.func.length(whole)))) or 0
    for number, begin in enumerate(range(0, longest, PART)):
        data = sa.func.substr(whole, begin + 1, PART)
        found = sa.select(*owner, sa.literal(number, sa.Integer), data)
        bind.execute(sa.insert(parts).from_select(columns, found.where(sa.func.length(whole) > begin)))


def downgrade() -> None:
    bind = op.get_bind()
    op.create_table('detector_experience',
    sa.Column('monitor', sa.String(length=64), nullable=False),
    sa.Column('slot', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('data', BLOB, nullable=False),
    sa.PrimaryKeyConstraint('monitor', 'slot', name=op.f('pk_detector_experience')),
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin'
    )
    owners = sa.select(EXPERIENCE_PART.c.monitor, EXPERIENCE_PART.c.slot, EXPERIENCE_PART.c.model_version)
    for owner in bind.execute(owners.where(EXPERIENCE_PART.c.part == 0)).all():
        data = _joined(EXPERIENCE_PART, monitor=owner.monitor, slot=owner.slot)
        bind.execute(sa.insert(EXPERIENCE).values(**owner._mapping, data=data))
    op.drop_table('detector_experience_part')

    with op.batch_alter_table('detector_model', schema=None) as batch_op:
        batch_op.add_column(sa.Column('artifact', BLOB, nullable=True))
    for version in bind.scalars(sa.select(MODEL.c.version)).all():
        artifact = _joined(MODEL_PART, version=version)
        bind.execute(sa.update(MODEL).where(MODEL.c.version == version).values(artifact=artifact))
    with op.batch_alter_table('detector_model', schema=None) as batch_op:
        batch_op.alter_column('artifact', existing_type=BLOB, nullable=False)
    op.drop_table('detector_model_part')


def _joined(parts: sa.TableClause, **owner: Any) -> bytes:
    return b''.join(op.get_bind().scalars(sa.select(parts.c.data).filter_by(**owner).order_by(parts.c.part)))
