"""``python -m bench.finetune``: the loss of a real fine-tune under every tier, against fp32 AdamW.

    python -m bench.finetune sweep --tier fp32 --lr 1e-4 3e-4 1e-3 --out runs/finetune
    python -m bench.finetune run --tier fp32 bf16 --seed 0 1 2 --out runs/finetune
    python -m bench.finetune report runs/finetune --out docs/memory.md --plot docs/finetune_loss.png

SmolLM2-135M on the Open-i chest X-ray reports. A run that was killed goes on from its last checkpoint when the same
command is given again, and ends in the same bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.finetuning.tiers import TIERS, Tier
from bench.finetuning.train import Settings, run

SWEEP_SEED = 100  # another data order than those of the comparison


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.finetune", description=__doc__.partition("\n")[0])
    commands = made.add_subparsers(dest="command", required=True)
    for name, words in (("run", "train tiers over seeds"), ("sweep", "compare learning rates of a tier")):
        command = commands.add_parser(name, help=words)
        command.add_argument("--tier", nargs="+", choices=TIERS, default=["fp32"])
        command.add_argument("--out", type=Path, required=True, help="a folder of run folders")
        command.add_argument("--batch", type=int, default=Settings.batch, help="windows per step")
        command.add_argument("--length", type=int, default=Settings.length, help="tokens per window")
        command.add_argument("--evaluate-every", type=int, default=Settings.evaluate_every, help="steps")
        command.add_argument("--threads", type=int, default=Settings.threads)
        command.add_argument("--source", default=Settings.source, help="smollm2-135m, or a shape with random weights")
        command.add_argument("--text", default=Settings.text, help="reports, or a text file")
        command.add_argument("--checkpoint-seconds", type=float, default=120.0)
        if name == "run":
            command.add_argument("--steps", type=int, default=Settings.steps)
            command.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
            command.add_argument("--lr", type=float, help="instead of the tier's own")
        else:
            command.add_argument("--steps", type=int, default=60)
            command.add_argument("--lr", type=float, nargs="+", required=True)
    command = commands.add_parser("report", help="table and plot of run folders")
    command.add_argument("runs", type=Path)
    command.add_argument("--out", type=Path, required=True, help="the markdown file whose section is replaced")
    command.add_argument("--plot", type=Path, help="a PNG file beside it")
    return made


def settings_of(options: argparse.Namespace, tier: Tier, seed: int, lr: float) -> Settings:
    return Settings(
        tier=tier.name, seed=seed, lr=lr, steps=options.steps, warmup=max(1, options.steps // 10),
        batch=options.batch, length=options.length, evaluate_every=options.evaluate_every, source=options.source,
        text=options.text, threads=options.threads,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(arguments)
    if options.command == "report":
        from bench.finetuning.report import write

        write(options.runs, options.out, options.plot)
        return
    for name in options.tier:
        tier = TIERS[name]
        if options.command == "sweep":
            for lr in options.lr:
                folder = options.out / "sweep" / f"{name}-lr{lr:g}"
                run(settings_of(options, tier, SWEEP_SEED, lr), folder, checkpoint_seconds=options.checkpoint_seconds)
            continue
        lr = options.lr or tier.lr
        if lr is None:
            made.error(f"--lr: expected one for {name}, a tier without a learning rate of its own: sweep it first")
        for seed in options.seed:
            folder = options.out / f"{name}-seed{seed}"
            run(settings_of(options, tier, seed, lr), folder, checkpoint_seconds=options.checkpoint_seconds)


if __name__ == "__main__":
    main()
