"""Accelerate: a loop as everybody writes it, with int8 weights, and gradients that are gone before step() is called."""

from pydoc_data.topics import topics

import torch
from accelerate import Accelerator
from torch.nn import functional as F

import fastgrad
from fastgrad.integrations.accelerate import release_gradients

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
text = torch.tensor(list("\n".join(topics.values()).encode()[:20_000]))
loader = torch.utils.data.DataLoader(text.unfold(0, 9, 1), batch_size=128, shuffle=True)
model = torch.nn.Sequential(
    torch.nn.Embedding(256, 32), torch.nn.Flatten(), torch.nn.Linear(256, 256), torch.nn.GELU(),
    torch.nn.Linear(256, 256),
)  # fmt: skip
fastgrad.quantize_weights_(model)
optimizer = fastgrad.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.0, 0.99), factored=True)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=80)

model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
released = release_gradients(accelerator, model, optimizer)  # the only line that is new
losses = []
for window in loader:
    with accelerator.accumulate(model):
        loss = F.cross_entropy(model(window[:, :-1]), window[:, -1])
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())

print(f"loss {sum(losses[:10]) / 10:.3f} -> {sum(losses[-10:]) / 10:.3f}, {released.optimizer.memory()}")
