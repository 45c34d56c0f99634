"""Run medart: as `medart`, or as `python -m medart_cli`, which torchrun and accelerate start."""

import sys

from medart_cli import stop


def main() -> None:
    """Run the command line; a stop signal is answered from here on, also while it is imported."""
    stop.end_at_once()
    from medart_cli import cli, ranks

    try:
        code = cli.call()
        if code == 0:  # else the others may be gone, or wait for what does not come
            ranks.leave_together()
        sys.exit(code)
    finally:
        stop.end_quietly()


if __name__ == "__main__":
    main()
