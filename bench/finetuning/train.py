"""One fine-tune: a function of its settings, which a kill at any moment and a resume do not change by a bit."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.finetuning import pretrained, text
from bench.finetuning.tiers import TIERS, Tier
from bench.finetuning.wheels import TORCHXRAYVISION
from bench.memory_tiers import tensor_bytes
from bench.memory_tiers.updates import Update
from fastgrad.replacing import replacing

VALIDATION_WINDOWS = 64  # of the curve; all windows at the end
FLOOR = 0.1  # of the learning rate, where the cosine ends


@dataclass(frozen=True)
class Settings:
    """What decides every bit of a run, on one machine and one version of torch."""

    tier: str
    seed: int
    lr: float
    steps: int = 150
    warmup: int = 15  # steps
    batch: int = 8  # windows
    length: int = 128  # tokens of a window
    evaluate_every: int = 25  # steps
    source: str = "smollm2-135m"
    text: str = "reports"  # or the path of a text file
    threads: int = 1  # runs side by side share a machine better than threads do

    def lr_at(self, step: int) -> float:
        """Linear over the warm-up, then a cosine from lr to FLOOR * lr."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Folder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def lines(self) -> list[dict]:
        """Of the log; a last line that was cut off by a kill is left out."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found


def _write_json(path: Path, content: dict) -> None:
    with replacing(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def documents(settings: Settings) -> text.Documents:
    if settings.text == "reports":
        return text.radiology_reports(TORCHXRAYVISION.read(text.REPORTS))
    return text.paragraphs(Path(settings.text))


def arithmetic(tier: Tier) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=tier.autocast)


@torch.no_grad()
def evaluate(tier: Tier, model: nn.Module, windows: Tensor, size: int) -> float:
    """Mean cross-entropy of all predicted tokens of the windows, in nats."""
    model.eval()
    total = 0.0
    for begin in range(0, len(windows), size):
        part = windows[begin : begin + size]
        with arithmetic(tier):
            logits = model(input_ids=part).logits
        # Every tier is judged by one text, whatever loss it trains with.
        losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), part[:, 1:].flatten())
        total += losses.item() * len(part)
    model.train()
    return total / len(windows)


def run(settings: Settings, folder: Path, *, checkpoint_seconds: float = 120.0, say=print) -> dict:
    """Train into ``folder`` from where it stands and return its result; a finished run is only read."""
    at, tier = Folder(folder), TIERS[settings.tier]
    if at.config.exists():
        stored = json.loads(at.config.read_text())
        if stored["settings"] != asdict(settings):
            raise ValueError(f"{folder}: expected a run of {asdict(settings)}, found one of {stored['settings']}")
        if at.result.exists():
            return json.loads(at.result.read_text())
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    encode, end = pretrained.tokenizer(settings.source)
    data = text.tokenized(documents(settings), encode, end, settings.length)
    model = pretrained.load(settings.source, tier.member, settings.seed)
    facts = {
        "data": tensor_bytes.digest(data),
        "windows": {part: len(windows) for part, windows in data.items()},
        "weights": tensor_bytes.digest(model.state_dict()),
        "torch": torch.__version__,
        "packages": tier.member.versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if not at.config.exists():
        _write_json(at.config, {"settings": asdict(settings), "facts": facts})
    elif facts != stored["facts"]:
        raise ValueError(f"{folder}: expected the data, weights and versions {stored['facts']}, got {facts}")

    state = None
    if at.checkpoint.exists():
        # A file this program wrote: tensor subclasses need the full unpickler.
        state = torch.load(at.checkpoint, weights_only=False)
        # The stored tensors take the places of the model's own, so that quantized ones are not rounded again.
        model.load_state_dict(state["model"], assign=True)
        model.tie_weights()
    model.train()
    update = tier.member.update(model, settings.lr)
    begin = 0
    if state is not None:
        update.load_state_dict(state["update"])
        torch.set_rng_state(state["rng"])
        begin = state["step"]
        say(f"{folder.name}: resumed after step {begin}")
    del state
    kept = [line for line in at.lines() if begin and line["step"] <= begin]
    with replacing(at.log, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in kept)
    for line in _steps(settings, tier, model, update, data, at, begin, checkpoint_seconds):
        with at.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if "validation" in line or line["step"] % 10 == 0:
            say(f"{folder.name}: {json.dumps(line)}")
    final = {
        "steps": settings.steps,
        "validation": evaluate(tier, model, data["validation"], settings.batch),
        "held_out": evaluate(tier, model, data["held_out"], settings.batch),
        "seconds": sum(line.get("seconds", 0.0) for line in at.lines()),
        "weights": tensor_bytes.digest(model.state_dict()),
        "state": tensor_bytes.digest([list(o.state.values()) for o in update.optimizers]),
        "bytes": {
            "parameters": sum(p.numel() for p in model.parameters()),
            "weights": tensor_bytes.size(model.parameters()),
            "state": sum(update.state_storages().values()),
        },
    }
    _write_json(at.result, final)
    at.checkpoint.unlink(missing_ok=True)
    say(f"{folder.name}: held-out loss {final['held_out']:.5f} after {final['seconds']:.0f} s of training")
    return final


def _steps(
    settings: Settings,
    tier: Tier,
    model: nn.Module,
    update: Update,
    data: dict[str, Tensor],
    at: Folder,
    begin: int,
    checkpoint_seconds: float,
) -> Iterator[dict]:
    """The lines of the log, one a step and one an evaluation; checkpoints in between."""

    def validation(step: int) -> dict:
        windows = data["validation"][:VALIDATION_WINDOWS]
        return {"step": step, "validation": evaluate(tier, model, windows, settings.batch)}

    if begin == 0:
        yield validation(0)
    saved = time.monotonic()
    for step in range(begin, settings.steps):
        started = time.perf_counter()
        lr = settings.lr_at(step)
        update.set_learning_rate(lr)
        with arithmetic(tier):
            loss = tier.member.causal_lm_loss(model, text.batch(data["train"], settings.seed, step, settings.batch))
        loss.backward()
        update.step()
        seconds = round(time.perf_counter() - started, 3)
        yield {"step": step + 1, "loss": loss.item(), "lr": lr, "seconds": seconds}
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"{at.path}: the loss of step {step + 1} is {loss.item()}")
        if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
            yield validation(step + 1)
        if time.monotonic() - saved >= checkpoint_seconds:
            with replacing(at.checkpoint, "wb") as file:
                torch.save(
                    {
                        "step": step + 1,
                        "model": model.state_dict(),
                        "update": update.state_dict(),
                        "rng": torch.get_rng_state(),
                    },
                    file,
                )
            saved = time.monotonic()
