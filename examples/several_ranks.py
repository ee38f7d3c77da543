"""torchrun --nproc-per-node 2 examples/several_ranks.py [--shard]: gradients in int8, or weights and states sharded."""

import sys
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastgrad
from fastgrad.distributed import compress_gradients

dist.init_process_group("gloo")  # "nccl" on GPUs
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)  # every rank starts with the same weights
text = torch.tensor(list("\n".join(topics.values()).encode()[:20_000])).unfold(0, 9, 1)
model = torch.nn.Sequential(
    torch.nn.Embedding(256, 32), torch.nn.Flatten(), torch.nn.Linear(256, 256), torch.nn.GELU(),
    torch.nn.Linear(256, 256),
)  # fmt: skip
if "--shard" in sys.argv:
    model = fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
else:
    model = DistributedDataParallel(model)
    compressed = compress_gradients(model, "int8")  # compressed.latest() says what that did
optimizer = fastgrad.optim.AdamW(model.parameters(), lr=3e-3, state_format="int8", normalize="znorm")
losses = []
for step in range(60):
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(step))
    window = text[order[rank : 128 * ranks : ranks]]  # each rank has a part of the batch
    loss = torch.nn.functional.cross_entropy(model(window[:, :-1]), window[:, -1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
if rank == 0:
    print(f"loss {sum(losses[:10]) / 10:.3f} -> {sum(losses[-10:]) / 10:.3f} on {ranks} ranks")
dist.destroy_process_group()
