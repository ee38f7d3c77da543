"""The training of a model on a set: a loop on fastgrad's optimizer that a kill and a resume do not change by a bit."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastgrad
from fastgrad.integrations.causal_lm import causal_lm_loss
from medclm.models.loading import image_token_id
from medclm.problems import DataError
from medclm.schema import STAGES
from medclm.training import display, lengths
from medclm.training.auxiliary import box_token_loss
from medclm.training.examples import Batch, collate
from medclm.training.objective import SpanLoss, Weights, span_loss
from medclm.training.prompting import for_model
from medclm.training.ranks import joined
from medclm.training.records import Rows, draw_stages, epoch_batches
from medclm.training.run import Run
from medclm.training.run_folder import RunFolder
from medclm.training.settings import MOST_SKIPPED, Settings

MEASURE_EVERY = 10  # steps between looks at what autograd saves
Sample = tuple[str, str, float, float, float]  # (domain, stage, loss, answer, reasoning)


def train(folder: Path, out: Path, settings: Settings, *, show: bool = True) -> dict:
    """Trains on the set in ``folder`` into ``out`` from where that stands; the same call goes on after any stop.

    Returns the ``result`` of ``train.json``. Under torchrun every process calls it.

    Errors: DataError for everything that the user can mend; the last good checkpoint stays.
    """
    with joined() as ranks, products(settings):
        return Training(folder, RunFolder(out), settings, ranks).run(show)


@contextmanager
def products(settings: Settings) -> Iterator[None]:
    """The loss widens bf16 operands on a CPU. Its bf16 units multiply them without loss, in half the time; the gradient
    of the logits is rounded to bf16, as it would be without the widening."""
    before = torch.get_float32_matmul_precision()
    if settings.dtype == "bf16":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Training(Run):
    """Steps, evaluations, and their lines in the log."""

    def run(self, show: bool) -> dict:
        if self.stored is not None and "result" in self.stored:
            return self.stored["result"]
        if self.state is None:
            torch.manual_seed(self.settings.seed)
        self.prepare()
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
            self.save()
            self.at.take_best()
            result = {
                "step": p.step, "stopped_early": p.stopped_early, "skipped": p.skipped,
                "shown": {stage: p.shown[stage] for stage in STAGES}, "validation": self._last_validation(),
            }  # fmt: skip
            self.at.update_config(result=result)
        self.ranks.barrier()
        stored = self.at.stored()
        assert stored is not None  # the first rank has just written it
        return stored["result"]

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
                self.save()

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
        return domain, collate(examples, self._pad(), self.longest), mix

    def _pad(self) -> int:
        pad = self.loaded.processor.tokenizer.pad_token_id
        return self.maker.end_token if pad is None else pad

    def _forward(self, batch: Batch) -> tuple[Tensor, SpanLoss]:
        s, model = self.settings, self.trained
        labels = batch.labels.to(self.loaded.model.device)
        inputs: dict[str, Any] = for_model(batch.inputs, self.loaded.model)  # keywords of the model, whatever they are
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
        if self.monitor is not None and (latest := self.monitor.latest()):
            found["gradients"] = latest["q_mean"]
        return found

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
        long, _ = lengths.too_long(
            self.validation, self.maker, image_token_id(self.loaded.model), self.longest, sorted(stages),
            first_only=False,
        )  # fmt: skip
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
            examples = [self.maker.example(self.validation[i], stage) for i, stage in some]
            batch = collate(examples, self._pad(), self.longest)
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


def _samples(domain: str, batch: Batch, found: SpanLoss) -> list[Sample]:
    columns = (found.loss, found.answer, found.reasoning)
    values = zip(*(column.detach().float().tolist() for column in columns), strict=True)
    return [(domain, stage, *each) for stage, each in zip(batch.stages, values, strict=True)]


def _by_stage(samples: Iterable[Sample]) -> dict[str, tuple[float, int]]:
    found: dict[str, list[float]] = {}
    for _, stage, loss, *_ in samples:
        found.setdefault(stage, []).append(loss)
    return {stage: (sum(found[stage]) / len(found[stage]), len(found[stage])) for stage in STAGES if stage in found}


def _mean(values: Iterable[float]) -> float | None:
    """Without NaN, which stands for "none there"; None where nothing is left."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else None


def _memory() -> dict[str, float]:
    found = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        found["cuda_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found
