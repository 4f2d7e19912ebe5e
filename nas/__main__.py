"""The command `nas`, also as `python -m nas`. It imports nothing that takes long before a signal can stop it."""

import gc

from nas.stopping import stop_at_once


def main() -> None:
    """Import the commands and run one; see `nas.cli.main`."""
    stop_at_once()
    gc.disable()  # what is imported stays: looking through it for garbage takes a tenth of the start
    from nas.cli import main as run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
