"""Let accelerate shard on the CPU too, then run medart; for torchrun.

accelerate does FSDP on accelerators only and passes over its settings elsewhere; torch does it on
any device. This sets the one mark that accelerate goes by, so that a test needs no GPU:
torchrun --nproc-per-node 2 -m tests.sharded COMMANDS.json
"""

import sys
from functools import wraps

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from tests.several import run


def shard_on_the_cpu():
    original = AcceleratorState.__init__

    @wraps(original)
    def changed(self, *arguments, fsdp_plugin=None, **options):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = changed


if __name__ == "__main__":
    shard_on_the_cpu()
    run(sys.argv[1])
