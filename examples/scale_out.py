"""Trains two tasks on all processes, saves, and goes on from there with any number of processes.

torchrun --nproc-per-node 2 examples/scale_out.py run --steps 50         # DistributedDataParallel
torchrun --nproc-per-node 4 examples/scale_out.py run --steps 100 --fsdp # goes on, with FSDP2
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mtl_ops import MultiTaskOptimizer
from mtl_ops.distributed import TrainingState

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--fsdp", action="store_true")
args = parser.parse_args()
dist.init_process_group("gloo")  # "nccl" for GPUs, with the model and the batches on them
torch.manual_seed(0)  # the same weights everywhere; every process then takes its part of a batch
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
model = fully_shard(model) if args.fsdp else DistributedDataParallel(model)
inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
optimizer = MultiTaskOptimizer(inner, "upgrad", tasks=["sum", "product"], module=model)
state = {"training": TrainingState(model, optimizer), "step": 0}
complete = sorted(path.parent for path in args.folder.glob("*/.metadata"))  # which is written last
if complete:
    dcp.load(state, checkpoint_id=complete[-1])
for step in range(state["step"], args.steps):
    batch = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
    part = batch.chunk(dist.get_world_size())[dist.get_rank()]
    errors = model(part) - torch.stack([part.sum(1), part.prod(1)], dim=1)
    optimizer.zero_grad()
    optimizer.backward(errors.square().mean(0), samples=len(part))
    optimizer.step()
    if dist.get_rank() == 0:
        print(f"step {step + 1}, losses {optimizer.report.losses.tolist()}")  # of the whole batch
if state["step"] < args.steps:  # into a folder of its own: one that is there may be lost half-way
    dcp.save({**state, "step": args.steps}, checkpoint_id=args.folder / f"{args.steps:08}")
dist.destroy_process_group()
