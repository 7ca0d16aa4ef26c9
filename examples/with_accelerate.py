"""Two tasks with Hugging Face Accelerate, in one process or by `accelerate launch`."""

import torch
from accelerate import Accelerator
from torch import nn

from mtl_ops import MultiTaskOptimizer


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x):
        features = self.trunk(x).relu()
        return {"a": self.a(features)[:, 0], "b": self.b(features)[:, 0]}


accelerator = Accelerator(mixed_precision="bf16")
loader = torch.utils.data.DataLoader(torch.randn(512, 8), batch_size=32)
model, loader = accelerator.prepare(Net(), loader)  # not the optimizer: it knows the processes
ddp = model if accelerator.num_processes > 1 else None
optimizer = MultiTaskOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), module=ddp)
for batch in loader:
    outputs, targets = model(batch), {"a": batch.sum(1), "b": batch.amax(1)}
    optimizer.zero_grad()
    optimizer.backward({t: (outputs[t] - targets[t]).square().mean() for t in "ab"})
    optimizer.step()
accelerator.print(optimizer.report.losses)
