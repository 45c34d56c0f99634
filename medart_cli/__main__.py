"""Run medart: as `medart`, or as `python -m medart_cli`, which torchrun and accelerate start."""

import getpass
import os
import sys

from medart_cli import stop


def main() -> None:
    """Run the command line; a stop signal is answered from here on, also while it is imported."""
    stop.end_at_once()
    name_nobody()
    from medart_cli import cli, ranks

    try:
        code = cli.call()
        if code == 0:  # else the others may be gone, or wait for what does not come
            ranks.leave_together()
        sys.exit(code)
    finally:
        stop.end_quietly()


def name_nobody() -> None:
    """Name a user whom the system does not know, as in containers: PyTorch 2.11 asks for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = str(os.getuid())


if __name__ == "__main__":
    main()
