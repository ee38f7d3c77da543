"""What a run is made of: its set, model, optimizer and scheduler, from the start or from its checkpoint."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import fastgrad
from medclm import sets
from medclm.models.loading import Loaded, image_token_id, load
from medclm.problems import DataError
from medclm.schema import STAGES
from medclm.training import adapters, lengths
from medclm.training.auxiliary import Localizers
from medclm.training.backward import RoundedBackward
from medclm.training.curriculum import Scheduler, scheduler
from medclm.training.examples import ExampleMaker
from medclm.training.ranks import Ranks
from medclm.training.records import Record, Rows, check_stages, epoch_batches, fingerprint
from medclm.training.run_folder import RunFolder
from medclm.training.settings import DTYPES, Settings


@dataclass
class Progress:
    """What a checkpoint holds beside weights and states."""

    step: int = 0
    skipped: int = 0  # steps whose loss was no number
    skipped_in_a_row: int = 0
    best: float = math.inf
    bad_evaluations: int = 0
    stopped_early: str = ""  # why
    shown: Counter = field(default_factory=Counter)  # samples of each stage, since the beginning


class Run:
    """Made, it has checked everything that can be checked before training; :meth:`prepare` makes the rest."""

    def __init__(self, folder: Path, at: RunFolder, settings: Settings, ranks: Ranks) -> None:
        self.folder, self.at, self.settings, self.ranks = folder, at, settings, ranks
        if ranks.count > 1 and settings.release:
            raise DataError(
                f"release: gradients of {ranks.count} processes are averaged after backward, when released ones are "
                "gone; expected --no-release under torchrun"
            )
        sets.facts(folder)  # a set, of this schema version
        at.heal()
        self.stored = at.stored()
        if self.stored is not None:
            settings.check_same(self.stored["settings"], str(at.path))
            if self.stored["set"] != fingerprint(folder):
                raise DataError(f"{at.path}: was begun on another set than {folder} is now; choose another --out")
        self.scheduler: Scheduler = scheduler(settings.scheduler)
        self.rows = Rows(folder, "train")
        check_stages(self.rows, self.scheduler.needs(), f"--scheduler {settings.scheduler}")
        self.state = None if self.stored is None else at.state()
        self.loaded = self._load()
        self.maker = ExampleMaker(self.loaded.processor, reasoning=settings.reasoning)
        self.records = self._fitting_records()
        self.progress = Progress()
        batches = len(epoch_batches(self.records, settings.batch, settings.seed, 0))
        self.steps_per_epoch = math.ceil(batches / (settings.accumulate * ranks.count))
        self.steps = self.steps_per_epoch * settings.epochs
        if settings.max_steps:
            self.steps = min(self.steps, settings.max_steps)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def _load(self) -> Loaded:
        settings = self.settings
        resumes = self.state is not None and not settings.lora
        name = self.at.checkpoint if resumes else settings.model
        loaded = load(name, dtype=DTYPES[settings.dtype], seed=settings.seed)
        if torch.cuda.is_available():
            loaded.model.to(torch.cuda.current_device())
        described = _described(loaded.model)
        if self.state is not None and self.state["model"] != described:
            raise DataError(
                f"{self.at.checkpoint}: expected the weights of {self.state['model']['class']} with "
                f"{self.state['model']['parameters']:,} parameters, got {described['class']} with "
                f"{described['parameters']:,}: a checkpoint of another model"
            )
        if self.stored is not None and self.state is None and self.stored["model"] != described:
            raise DataError(f"{self.at.path}: was begun with another model than {settings.model} is now")
        self.described = described
        return loaded

    def _fitting_records(self) -> list[Record]:
        settings = self.settings
        most = self.longest = lengths.longest_allowed(self.loaded, settings.max_length)
        stops = settings.too_long == "error"
        stages = [stage for stage in STAGES if stage in self.scheduler.needs()]
        token = image_token_id(self.loaded.model)
        found, words = lengths.too_long(self.rows, self.maker, token, most, stages, first_only=stops)
        if found and stops:
            raise DataError(
                f"{words}, more than {most}: give --max-length, smaller images, or --too-long skip to leave such rows "
                "out"
            )
        self.left_out = len(found)
        kept = []
        for record in self.rows.records():
            rows = {stage: index for stage, index in record.rows.items() if stage in stages and index not in found}
            if rows:
                kept.append(Record(record.domain, rows))
        if not kept:
            raise DataError(f"{self.folder}: all rows are longer than {most} tokens; {words}")
        return kept

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Matrices decay, vectors do not."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for _, p in some], "param_names": [name for name, _ in some], "weight_decay": decay}
            for some, decay in (
                ([(n, p) for n, p in named if p.dim() > 1], self.settings.weight_decay),
                ([(n, p) for n, p in named if p.dim() <= 1], 0.0),
            )
            if some
        ]

    def make_optimizer(self, model: nn.Module) -> fastgrad.optim.AdamW:
        s = self.settings
        # With release, this step's norm is known only when its gradients are gone.
        stats = "lagged" if s.clip and s.release else "auto"
        return fastgrad.optim.AdamW(
            self.parameter_groups(model), lr=s.lr, betas=s.betas, state_format=s.state_format, factored=s.factored,
            nonfinite="skip", grad_format=None if s.grad_format == "none" else s.grad_format, seed=s.seed,
            normalize="clip" if s.clip else None, max_norm=s.clip or 1.0, stats=stats,
        )  # fmt: skip

    def prepare(self) -> None:
        s, model = self.settings, self.loaded.model
        ends = model.generation_config.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        if self.maker.end_token not in ends:
            model.generation_config.eos_token_id = [*ends, self.maker.end_token]
        self.localizers = None
        if s.attention_weight or s.grounding_weight:
            self.localizers = Localizers(self.loaded, attention=s.attention_weight, grounding=s.grounding_weight)
        if s.checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.rounded = None
        if s.backward_format != "none":
            self.rounded = RoundedBackward(model, s.backward_format, s.seed * 4096 + self.ranks.rank)
        self.trained: nn.Module = adapters.add_adapters(model, s.lora, s.seed) if s.lora else model
        self.trained.train()
        self.ranks.share_weights(self.trained.parameters())
        self.optimizer = self.make_optimizer(self.trained)
        self.monitor = fastgrad.Monitor(self.optimizer, capacity=1) if s.grad_format != "none" else None
        if self.state is not None:
            self._restore(self.state)
        self.released = None
        if s.release:
            self.released = fastgrad.release_gradients(self.trained, self.optimizer, accumulate=s.accumulate)
        if self.ranks.first and self.stored is None:
            self.at.begin(self._config())
        self.ranks.barrier()

    def _config(self) -> dict:
        import transformers

        return {
            "settings": self.settings.to_dict(),
            "set": fingerprint(self.folder),
            "model": self.described,
            "family": self.loaded.family.name,
            "codec": self.loaded.family.codec,
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "questions": len(self.records),
            "rows_left_out": self.left_out,
            "processes": self.ranks.count,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numerics": fastgrad.numerics_version,
        }

    def _restore(self, state: dict) -> None:
        if state["steps"] != self.steps or state["processes"] != self.ranks.count:
            raise DataError(
                f"{self.at.path}: was begun with {state['processes']} processes and {state['steps']} steps, this is "
                f"{self.ranks.count} and {self.steps}"
            )
        if self.settings.lora:
            own = dict(self.trained.named_parameters())
            with torch.no_grad():
                for name, value in state["adapters"].items():
                    own[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        for name, p in self.trained.named_parameters():
            if not bool(p.isfinite().all()):
                raise DataError(f"step {self.progress.step}: {name} is no longer finite; the last checkpoint stays")
        state = {
            "model": self.described,
            "steps": self.steps,
            "processes": self.ranks.count,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "progress": vars(self.progress),
        }
        if self.settings.lora:
            state["adapters"] = adapters.trained_state(self.trained)
        self.at.save(self.at.checkpoint, self._write_model, state)

    def _write_model(self, folder: Path) -> None:
        weights = adapters.merged_state_dict(self.trained) if self.settings.lora else None
        self.loaded.model.save_pretrained(folder, state_dict=weights)
        self.loaded.processor.save_pretrained(folder)


def _described(model: nn.Module) -> dict:
    return {"class": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
