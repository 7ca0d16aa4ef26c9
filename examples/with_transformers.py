"""Two tasks with Hugging Face's Trainer: the model returns a dict of losses. In several processes by `torchrun`."""

import torch
from torch import nn
from transformers import BertConfig, BertModel, BertPreTrainedModel, TrainingArguments

from mtl_ops.integrations.transformers import MultiTaskTrainer


class Net(BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.heads = nn.ModuleDict({"count": nn.Linear(16, 1), "first": nn.Linear(16, 16)})
        self.post_init()

    def forward(self, input_ids, labels):
        features = self.bert(input_ids).last_hidden_state.mean(1)
        count, first = (head(features) for head in self.heads.values())
        losses = {"count": (count[:, 0] - labels).square().mean()}
        losses["first"] = nn.functional.cross_entropy(first, input_ids[:, 0])
        return {"loss": losses, "logits": count}


config = BertConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
rows = torch.randint(16, (256, 8), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": (row == 3).sum().float()} for row in rows]
options = {"num_train_epochs": 2, "learning_rate": 1e-2, "logging_steps": 16, "report_to": "none"}
trainer = MultiTaskTrainer(Net(config), TrainingArguments("runs", **options), train_dataset=data)
print(trainer.train().metrics["train_loss"], trainer.merging.report.cosines)
