"""One way to drive every optimizer: those that step after backward, and those that step inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from bench.memory_tiers import tensor_bytes


class Update:
    """What a training loop needs of one or many optimizers.

    finish  is called at the end of an iteration; by default every optimizer steps and lets go of its gradients
    """

    def __init__(self, optimizers: Sequence[Optimizer], finish: Callable[[], object] | None = None) -> None:
        self.optimizers = list(optimizers)
        self._finish = finish

    def step(self) -> None:
        """The end of an iteration: the update itself, or the little that gradient release leaves to do."""
        if self._finish is not None:
            self._finish()
            return
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, lr: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def state_storages(self) -> dict[int, int]:
        """Storages of the state: what the optimizers keep per parameter, and their other tensors."""
        held = [[dict(o.state), [v for k, v in vars(o).items() if k != "param_groups"]] for o in self.optimizers]
        return tensor_bytes.storages(tensor_bytes.tensors_in(held))

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def nothing() -> None:
    """The end of an iteration whose updates are done."""


def release_by_hooks(model: nn.Module, make: Callable[[list[nn.Parameter]], Optimizer]) -> Update:
    """An optimizer per parameter, which steps as soon as its gradient is complete and then drops it."""
    optimizers = []
    for parameter in model.parameters():
        optimizer = make([parameter])
        optimizers.append(optimizer)

        def update(parameter: Tensor, optimizer: Optimizer = optimizer) -> None:
            optimizer.step()
            parameter.grad = None

        parameter.register_post_accumulate_grad_hook(update)
    return Update(optimizers, nothing)


def remove_hooks(model: nn.Module) -> None:
    """Gradient release ends; without its hooks, which know the optimizer, nothing keeps ``model`` alive."""
    for parameter in model.parameters():
        if parameter._post_accumulate_grad_hooks:
            parameter._post_accumulate_grad_hooks.clear()


def drop_gradients(model: nn.Module) -> None:
    """From now on the gradients of ``model`` are let go as soon as they are complete; hooks that updated are gone."""
    remove_hooks(model)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
