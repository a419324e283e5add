"""`python -m ddpo_utils` under FSDP without a GPU: accelerate's own code, past the one question it asks first.

accelerate shards on GPUs alone and falls back to plain data parallel elsewhere, although torch shards on a CPU too.
"""

import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from ddpo_utils.cli import main

plain = PartialState.__init__


def as_if_gpus(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = as_if_gpus
status = main(sys.argv[1:])
assert AcceleratorState().distributed_type == DistributedType.FSDP, "this was no FSDP run"
sys.exit(status)
