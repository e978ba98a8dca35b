"""A transaction that fails where something is not as it was taken to be, and whoever wrote it need not read it first."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE FUNCTION expect(is_so boolean) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            IF is_so IS NOT TRUE THEN
                RAISE EXCEPTION 'not as expected' USING ERRCODE = 'MM001';
            END IF;
        END $$
        """
    )
