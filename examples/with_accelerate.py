"""Two tasks with Hugging Face Accelerate, in one process or by `accelerate launch` or `torchrun`."""

import torch
from accelerate import Accelerator
from torch import nn

from mtl_ops import MultiTaskOptimizer


class Net(nn.ModuleDict):
    def forward(self, x):
        features = self["trunk"](x).relu()
        return {t: self[t](features)[:, 0] for t in "ab"}


torch.manual_seed(0)  # the same data on all processes: the loader gives each its part
# With `cpu=True`, processes on CPUs know of one another under `torchrun` too.
accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
loader = torch.utils.data.DataLoader(torch.randn(512, 8), 32 // accelerator.num_processes)
net = Net({"trunk": nn.Linear(8, 16), "a": nn.Linear(16, 1), "b": nn.Linear(16, 1)})
model, loader = accelerator.prepare(net, loader)  # not the optimizer: it knows the processes
ddp = model if accelerator.num_processes > 1 else None
optimizer = MultiTaskOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), module=ddp)
for batch in loader:
    outputs, targets = model(batch), {"a": batch.sum(1), "b": batch.amax(1)}
    optimizer.zero_grad()
    optimizer.backward({t: (outputs[t] - targets[t]).square().mean() for t in "ab"})
    optimizer.step()
accelerator.print(f"processes: {accelerator.num_processes}, losses: {optimizer.report.losses}")
