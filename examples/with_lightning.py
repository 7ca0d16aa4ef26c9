"""Two tasks with PyTorch Lightning: automatic optimisation, and a dict of losses."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from mtl_ops import MultiTaskOptimizer
from mtl_ops.integrations.lightning import MultiTaskCallback


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"sum": nn.Linear(16, 1), "max": nn.Linear(16, 1)})

    def training_step(self, batch, _):
        features, targets = self.trunk(batch), {"sum": batch.sum(1), "max": batch.amax(1)}
        return {t: (h(features)[:, 0] - targets[t]).square().mean() for t, h in self.heads.items()}

    def configure_optimizers(self):
        return MultiTaskOptimizer(torch.optim.AdamW(self.parameters(), lr=1e-2), "upgrad")


if __name__ == "__main__":
    trainer = Trainer(max_epochs=5, callbacks=[MultiTaskCallback()], logger=False)
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(512, 8), batch_size=32))
