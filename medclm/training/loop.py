"""The training of a model on a set: a readable loop on fastgrad's optimizer, which a kill and a resume do not change by
a bit."""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import fastgrad
from fastgrad.integrations.causal_lm import causal_lm_loss
from medclm import sets
from medclm.models.loading import Loaded, image_token_id, load
from medclm.problems import DataError
from medclm.schema import STAGES
from medclm.training import adapters, display, lengths
from medclm.training.auxiliary import Localizers, box_token_loss
from medclm.training.backward import RoundedBackward
from medclm.training.curriculum import Scheduler, scheduler
from medclm.training.examples import Batch, ExampleMaker, collate
from medclm.training.objective import SpanLoss, Weights, span_loss
from medclm.training.prompting import for_model
from medclm.training.ranks import Ranks, joined
from medclm.training.records import Record, Rows, check_stages, draw_stages, epoch_batches, fingerprint
from medclm.training.run_folder import RunFolder
from medclm.training.settings import DTYPES, MOST_SKIPPED, Settings

MEASURE_EVERY = 10  # steps between looks at what autograd saves


def train(folder: Path, out: Path, settings: Settings, *, show: bool = True) -> dict:
    """Trains on the set in ``folder`` into ``out`` from where that stands; the same call goes on after any stop.

    Returns the last line of ``train.json``'s ``result``. Under torchrun every process calls it.

    Errors: DataError for everything that the user can mend; the last good checkpoint stays.
    """
    with joined() as ranks:
        return _Training(folder, RunFolder(out), settings, ranks).run(show)


@dataclass
class _Progress:
    """What a checkpoint holds beside weights and states."""

    step: int = 0
    skipped: int = 0  # steps whose loss was no number
    skipped_in_a_row: int = 0
    best: float = math.inf
    bad_evaluations: int = 0
    stopped_early: str = ""  # why
    shown: Counter = field(default_factory=Counter)  # samples of each stage, since the beginning


class _Training:
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
        self.progress = _Progress()
        batches = len(epoch_batches(self.records, settings.batch, settings.seed, 0))
        self.steps_per_epoch = math.ceil(batches / (settings.accumulate * ranks.count))
        self.steps = self.steps_per_epoch * settings.epochs
        if settings.max_steps:
            self.steps = min(self.steps, settings.max_steps)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    # Making ----------------------------------------------------------------------------------------------------------

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
        most = lengths.longest_allowed(self.loaded, settings.max_length)
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

    def _make_optimizer(self, model: nn.Module) -> fastgrad.optim.AdamW:
        s = self.settings
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for _, p in some], "param_names": [name for name, _ in some], "weight_decay": decay}
            for some, decay in (
                ([(n, p) for n, p in named if p.dim() > 1], s.weight_decay),
                ([(n, p) for n, p in named if p.dim() <= 1], 0.0),
            )
            if some
        ]
        clipped = dict(normalize="clip", max_norm=s.clip, stats="lagged") if s.clip else {}
        return fastgrad.optim.AdamW(
            groups, lr=s.lr, betas=s.betas, state_format=s.state_format, factored=s.factored, nonfinite="skip",
            grad_format=None if s.grad_format == "none" else s.grad_format, seed=s.seed, **clipped,
        )  # fmt: skip

    def _prepare(self) -> None:
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
        self.optimizer = self._make_optimizer(self.trained)
        self.monitor = fastgrad.Monitor(self.optimizer, capacity=1)
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
        self.progress = _Progress(**state["progress"])

    # Running ---------------------------------------------------------------------------------------------------------

    def run(self, show: bool) -> dict:
        if self.stored is not None and "result" in self.stored:
            return self.stored["result"]
        if self.state is None:
            torch.manual_seed(self.settings.seed)
        self._prepare()
        p = self.progress
        if self.ranks.first:
            self.at.keep_lines(p.step)
        with display.shown(self.steps, p.step, self.ranks.first and show) as report:
            for line in self._lines():
                if self.ranks.first:
                    self.at.add_line(line)
                report(line)
                if "validation" in line and self._is_over(line["validation"]["mean"]):
                    p.stopped_early = f"no better loss in {self.settings.patience} evaluations"
                    break
        if self.ranks.first:
            self._save()
            self.at.take_best()
            result = {
                "step": p.step, "stopped_early": p.stopped_early, "skipped": p.skipped,
                "shown": {stage: p.shown[stage] for stage in STAGES}, "validation": self._last_validation(),
            }  # fmt: skip
            self.at.update_config(result=result)
        self.ranks.barrier()
        return self.at.stored()["result"]

    def _last_validation(self) -> dict | None:
        found = [line["validation"] for line in self.at.lines() if "validation" in line]
        return found[-1] if found else None

    def _lines(self) -> Iterator[dict]:
        """One a step and one an evaluation; checkpoints in between."""
        s, p = self.settings, self.progress
        validation = self._validation_rows()
        while p.step < self.steps and not p.stopped_early:
            yield self._step()
            done = p.step == self.steps
            if validation and (p.step % s.evaluate_every == 0 or done):
                yield {"step": p.step, "validation": self._evaluate(validation)}
            if p.step % s.checkpoint_every == 0 and not done and self.ranks.first:
                self._save()

    def _step(self) -> dict:
        """One update."""
        s, p = self.settings, self.progress
        started = time.perf_counter()
        epoch, place = divmod(p.step, self.steps_per_epoch)
        lr = self._lr(p.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        seen, tokens, saved, bad = [], 0, None, False
        for micro in range(s.accumulate):
            domain, batch, mix = self._batch(epoch, place, micro)
            slot = micro * self.ranks.count + self.ranks.rank
            if self.rounded is not None:
                self.rounded.begin(p.step * s.accumulate + micro)
            with self._saving(p.step, slot) as saving:
                total, found = self._forward(batch)
            if not self._all_finite(total):
                bad = True
                self._not_a_number(batch, total)
                break
            (total / s.accumulate).backward()
            tokens += batch.tokens
            seen += _samples(domain, batch, found)
            if saving is not None and p.step % MEASURE_EVERY == 0:
                saved = saving.measure()
        self._update(bad)
        seen = self.ranks.gathered(seen)
        for domain in sorted({sample[0] for sample in seen}):
            self.scheduler.observe(domain, _by_stage(sample for sample in seen if sample[0] == domain))
        if place == self.steps_per_epoch - 1:
            self.scheduler.end_epoch()
        p.shown.update(sample[1] for sample in seen)
        p.step += 1
        p.skipped_in_a_row = p.skipped_in_a_row + 1 if bad else 0
        line = {
            "step": p.step, "epoch": epoch, "lr": lr, "loss": _mean(sample[2] for sample in seen),
            "loss_by_stage": {stage: mean for stage, (mean, _) in _by_stage(seen).items()},
            "answer": _mean(sample[3] for sample in seen), "reasoning": _mean(sample[4] for sample in seen),
            "stages": {stage: n for stage, (_, n) in _by_stage(seen).items()}, "shown": dict(p.shown),
            "mix": dict(zip(STAGES, mix, strict=True)), "domain": domain if seen else None,
        }  # fmt: skip
        return (
            line
            | self.scheduler.facts()
            | {
                "q_k": self._q_k(),
                "memory": _memory() | ({} if saved is None else {"saved": [saved.bytes_before, saved.bytes_kept]}),
                "tokens": tokens,
                "skipped": p.skipped,
                "seconds": round(time.perf_counter() - started, 3),
            }
        )

    def _batch(self, epoch: int, place: int, micro: int) -> tuple[str, Batch, tuple[float, float, float]]:
        """That of this process: (domain, batch, the mix it was drawn from)."""
        s = self.settings
        if self._epoch[0] != epoch:
            self._epoch = epoch, epoch_batches(self.records, s.batch, s.seed, epoch)
        batches = self._epoch[1]
        number = (place * s.accumulate + micro) * self.ranks.count + self.ranks.rank
        records = [self.records[i] for i in batches[number % len(batches)]]
        domain = records[0].domain
        mix = self.scheduler.probabilities(domain, epoch, self.progress.step / self.steps)
        of_epoch = self.steps_per_epoch * s.accumulate * self.ranks.count
        drawn = draw_stages(records, mix, s.seed, epoch * of_epoch + number)
        examples = [
            self.maker.example(self.rows[record.rows[stage]], stage)
            for record, stage in zip(records, drawn, strict=True)
        ]
        return domain, collate(examples, self._pad()), mix

    def _pad(self) -> int:
        pad = self.loaded.processor.tokenizer.pad_token_id
        return self.maker.end_token if pad is None else pad

    def _forward(self, batch: Batch) -> tuple[Tensor, SpanLoss]:
        s, model = self.settings, self.trained
        labels = batch.labels.to(self.loaded.model.device)
        inputs = for_model(batch.inputs, self.loaded.model)
        losses = causal_lm_loss(self.loaded.model if s.lora else model, labels=labels, reduction="none", **inputs)
        found = span_loss(
            losses, batch.spans.to(losses.device), batch.stages, Weights(s.answer_weight, s.reasoning_weight)
        )
        total = found.loss.mean()
        if s.box_weight:
            total = total + s.box_weight * box_token_loss(losses, batch.boxes.to(losses.device))
        if self.localizers is not None and torch.is_grad_enabled():
            total = total + self.localizers.loss(batch)
        return total, found

    def _saving(self, step: int, slot: int) -> AbstractContextManager:
        if self.settings.activations == "none":
            return nullcontext()
        return fastgrad.compress_saved_tensors(
            self.settings.activations, pow2=True, seed=self.settings.seed, step=step, slot=slot,
            exact=self.loaded.model.buffers(),
        )  # fmt: skip

    def _update(self, bad: bool) -> None:
        if self.released is not None:
            self.released.flush()
            return
        if not bad:
            self.ranks.average_gradients(self.trained.parameters())
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _all_finite(self, loss: Tensor) -> bool:
        return all(self.ranks.gathered([bool(loss.isfinite())]))

    def _not_a_number(self, batch: Batch, loss: Tensor) -> None:
        p = self.progress
        p.skipped += 1
        rows = ", ".join(row["id"] for row in batch.rows)
        what = f"step {p.step + 1}: the loss is {loss.item()} (rows {rows})"
        if self.settings.nan == "stop":
            raise DataError(f"{what}; the checkpoint before it stays. A smaller --lr, or --nan skip")
        if p.skipped_in_a_row + 1 >= MOST_SKIPPED:
            raise DataError(f"{what}, as in the {MOST_SKIPPED - 1} steps before; the last checkpoint stays")

    def _lr(self, step: int) -> float:
        """Linear over the warm-up, then a cosine to final_lr."""
        s = self.settings
        warmup = math.ceil(s.warmup * self.steps)
        if step < warmup:
            return s.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return s.final_lr + (s.lr - s.final_lr) * 0.5 * (1 + math.cos(math.pi * done))

    def _q_k(self) -> dict[str, float]:
        found = {}
        if self.rounded is not None and (q := self.rounded.q_k()) is not None:
            found["backward"] = q
        if self.settings.grad_format != "none" and (latest := self.monitor.latest()):
            found["gradients"] = latest["q_mean"]
        return found

    # Evaluating and saving -------------------------------------------------------------------------------------------

    def _validation_rows(self) -> list[tuple[int, str]]:
        """Some of each stage of the val split: the first ones, always the same."""
        s = self.settings
        if not (s.evaluate_every and s.evaluate_rows):
            return []
        try:
            self.validation = Rows(self.folder, "val")
        except DataError:
            if s.patience:
                raise
            return []
        found = []
        stages = self.scheduler.needs()
        most = lengths.longest_allowed(self.loaded, s.max_length)
        long, _ = lengths.too_long(
            self.validation, self.maker, image_token_id(self.loaded.model), most, sorted(stages), first_only=False
        )
        for stage in STAGES:
            of_stage = [i for i, row in enumerate(self.validation.texts) if row["stage"] == stage and i not in long]
            if stage in stages:
                found += [(i, stage) for i in of_stage[: s.evaluate_rows]]
        return found

    @torch.no_grad()
    def _evaluate(self, chosen: list[tuple[int, str]]) -> dict[str, float]:
        """Mean objective of each stage and of all; each process looks at its share."""
        self.trained.eval()
        mine = chosen[self.ranks.rank :: self.ranks.count]
        seen = []
        for begin in range(0, len(mine), self.settings.batch):
            some = mine[begin : begin + self.settings.batch]
            batch = collate([self.maker.example(self.validation[i], stage) for i, stage in some], self._pad())
            seen += _samples("", batch, self._forward(batch)[1])
        self.trained.train()
        seen = self.ranks.gathered(seen)
        by_stage = {stage: mean for stage, (mean, _) in _by_stage(seen).items()}
        return by_stage | {"mean": sum(by_stage.values()) / len(by_stage)}

    def _is_over(self, loss: float) -> bool:
        """Counts evaluations without a better loss; keeps the best weights."""
        s, p = self.settings, self.progress
        if not s.patience:
            return False
        if loss < p.best:
            p.best, p.bad_evaluations = loss, 0
            if self.ranks.first:
                self.at.save(self.at.best, self._write_model, None)
            return False
        p.bad_evaluations += 1
        return p.bad_evaluations >= s.patience

    def _save(self) -> None:
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
            "progress": vars(self.progress),
        }
        if self.settings.lora:
            state["adapters"] = adapters.trained_state(self.trained)
        self.at.save(self.at.checkpoint, self._write_model, state)

    def _write_model(self, folder: Path) -> None:
        weights = adapters.merged_state_dict(self.trained) if self.settings.lora else None
        self.loaded.model.save_pretrained(folder, state_dict=weights)
        self.loaded.processor.save_pretrained(folder)


def _samples(domain: str, batch: Batch, found: SpanLoss) -> list[tuple[str, str, float, float, float]]:
    """(domain, stage, loss, answer, reasoning) of every sample."""
    columns = (found.loss, found.answer, found.reasoning)
    values = zip(*(column.detach().float().tolist() for column in columns), strict=True)
    return [(domain, stage, *each) for stage, each in zip(batch.stages, values, strict=True)]


def _by_stage(samples) -> dict[str, tuple[float, int]]:
    found: dict[str, list[float]] = {}
    for _, stage, loss, *_ in samples:
        found.setdefault(stage, []).append(loss)
    return {stage: (sum(found[stage]) / len(found[stage]), len(found[stage])) for stage in STAGES if stage in found}


def _mean(values) -> float | None:
    """Without NaN, which stands for "none there"; None where nothing is left."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else None


def _memory() -> dict[str, float]:
    found = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        found["cuda_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _described(model: nn.Module) -> dict:
    return {"class": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
