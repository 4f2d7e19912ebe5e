"""The command `nas`, also as `python -m nas`. It imports nothing that takes long before a signal can stop it."""

from nas.stopping import stop_at_once


def main() -> None:
    """Import the commands and run one; see `nas.cli.main`."""
    stop_at_once()
    from nas.cli import main as run

    run()


if __name__ == "__main__":
    main()
