"""Alembic's entry point. The connection comes from `memory_service.store.migrate`."""

from alembic import context

from memory_service.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema="memory",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
