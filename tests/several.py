"""Run several medart commands one after another; for torchrun, which starts it more than once.

One start for many commands, because loading the libraries takes longer than the commands do:
torchrun --nproc-per-node 2 -m tests.several COMMANDS.json
"""

import json
import sys
from pathlib import Path

import torch

from medart_cli.cli import main


def run(path):
    torch.set_num_threads(1)
    codes = []
    for command in json.loads(Path(path).read_text(encoding="utf-8")):
        try:
            main(command)
        except SystemExit as ended:
            codes.append(ended.code or 0)
    sys.exit(max(codes))


if __name__ == "__main__":
    run(sys.argv[1])
