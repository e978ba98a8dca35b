"""A transaction that fails where a thread is not as it was planned from: what it writes goes out without waiting to hear."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE FUNCTION expect_thread(of_pk bigint, of_version bigint, of_run text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM FROM memory.threads
            WHERE pk = of_pk AND version = of_version AND active_run_id IS NOT DISTINCT FROM of_run FOR UPDATE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'the thread moved' USING ERRCODE = 'MM001';
            END IF;
        END $$
        """
    )
