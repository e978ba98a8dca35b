"""`python -m memory_service` and the `memory-service` command."""

from memory_service.cli import app


def main() -> None:
    app()


if __name__ == "__main__":
    main()
