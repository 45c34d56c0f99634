"""Run medart as `python -m medart_cli`, which is what torchrun and accelerate start."""

from medart_cli.cli import main

if __name__ == "__main__":
    main()
