"""`python -m ddpo_utils` under FSDP without a GPU.

accelerate shards on GPUs alone, although torch shards on a CPU too; this replaces its one check.
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
