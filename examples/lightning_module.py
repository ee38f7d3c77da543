"""Lightning: an MLP guesses the next letter of Python's documentation; 8-bit states, no stored gradients."""

from pydoc_data.topics import topics

import lightning.pytorch as pl
import torch
from torch.nn import functional as F

import fastgrad
from fastgrad.integrations.lightning import FastgradMonitor, ReleaseGradients


class NextLetter(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(
            torch.nn.Embedding(256, 32), torch.nn.Flatten(), torch.nn.Linear(256, 256), torch.nn.GELU(),
            torch.nn.Linear(256, 256),
        )  # fmt: skip
        self.losses = []

    def training_step(self, window, _):
        loss = F.cross_entropy(self.model(window[:, :-1]), window[:, -1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return fastgrad.optim.AdamW(self.parameters(), lr=3e-3, state_format="int8", grad_format="fp8_e4m3")


torch.manual_seed(0)
text = torch.tensor(list("\n".join(topics.values()).encode()[:20_000]))
loader = torch.utils.data.DataLoader(text.unfold(0, 9, 1), batch_size=128, shuffle=True)
module, monitor = NextLetter(), FastgradMonitor()
options = dict(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=2)
pl.Trainer(max_epochs=1, callbacks=[monitor, ReleaseGradients()], log_every_n_steps=10, **options).fit(module, loader)

print(f"loss {sum(module.losses[:10]) / 10:.3f} -> {sum(module.losses[-10:]) / 10:.3f}, {monitor.monitor.latest()}")
