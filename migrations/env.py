"""Alembic's entry point: runs the migrations on the connection that `detector.store.schema` passes in."""

from alembic import context

from detector.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="detector_alembic_version",
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
