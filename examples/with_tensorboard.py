"""Two tasks with TensorBoard: losses, weights, norms and cosines by task. See them with `tensorboard --logdir runs`."""

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from mtl_ops import MultiTaskOptimizer, log_report


class Net(nn.ModuleDict):
    def forward(self, x):
        features = self["trunk"](x).relu()
        return {task: self[task](features)[:, 0] for task in ("sum", "max")}


torch.manual_seed(0)
net = Net({"trunk": nn.Linear(8, 16), "sum": nn.Linear(16, 1), "max": nn.Linear(16, 1)})
optimizer = MultiTaskOptimizer(torch.optim.AdamW(net.parameters(), lr=1e-2), "upgrad")
with SummaryWriter("runs") as writer:
    for step in range(200):
        x = torch.randn(32, 8)
        outputs, targets = net(x), {"sum": x.sum(1), "max": x.amax(1)}
        optimizer.zero_grad()
        optimizer.backward({t: (outputs[t] - targets[t]).square().mean() for t in outputs})
        optimizer.step()
        if step % 10 == 0:  # reading the report waits for the device
            log_report(writer, optimizer.report, step)
print(f"losses: {optimizer.report.losses.tolist()}")
