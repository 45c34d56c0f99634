"""Run medart: as `medart`, or as `python -m medart_cli`, which torchrun and accelerate start."""

from medart_cli import stop


def main() -> None:
    """Run the command line; a stop signal is answered from here on, also while it is imported."""
    stop.end_at_once()
    from medart_cli import cli

    try:
        cli.main()
    finally:
        stop.end_quietly()


if __name__ == "__main__":
    main()
