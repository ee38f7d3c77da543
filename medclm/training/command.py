"""The command ``medclm train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medclm.problems import DataError

if TYPE_CHECKING:
    from medclm.training.settings import Settings

Option = typer.Option


def train(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="A converted set.")],
    out: Annotated[Path, Option(help="Folder of the run; the same command goes on where a run stopped.")],
    model: Annotated[str, Option(help="tiny, student, a folder, or a name on the hub.")],
    seed: Annotated[int, Option(help="Equal seeds, equal bits.")] = 0,
    epochs: Annotated[int, Option(help="Passes over the questions.")] = 10,
    max_steps: Annotated[int, Option(help="Fewer steps than that; 0: all.")] = 0,
    batch: Annotated[int, Option(help="Questions side by side.")] = 4,
    accumulate: Annotated[int, Option(help="Batches to a step.")] = 1,
    scheduler: Annotated[str, Option(help="adaptive, paper, staged[:A,B], mix:EASY,MEDIUM,HARD, none.")] = "adaptive",
    reasoning: Annotated[bool, Option(help="Replies hold the reasoning, too.")] = True,
    answer_weight: Annotated[float, Option(help="Of the answer's loss, beside reasoning.")] = 0.8,
    reasoning_weight: Annotated[float, Option(help="Of the reasoning's loss.")] = 0.2,
    box_weight: Annotated[float, Option(help="Of the loss of box tokens, once more; 0: off.")] = 0.0,
    attention_weight: Annotated[float, Option(help="Of the attention loss; 0: off.")] = 0.0,
    grounding_weight: Annotated[float, Option(help="Of the grounding loss; 0: off.")] = 0.0,
    lr: Annotated[float, Option(help="Learning rate behind the warm-up.")] = 1e-4,
    final_lr: Annotated[float, Option(help="Where its cosine ends.")] = 1e-5,
    warmup: Annotated[float, Option(help="Part of the steps.")] = 0.03,
    weight_decay: Annotated[float, Option(help="Of matrices.")] = 0.05,
    clip: Annotated[float, Option(help="Norm of all gradients, with release by that of the last step; 0: off.")] = 0.0,
    dtype: Annotated[str, Option(help="Of the weights: bf16 (stochastic rounding), fp32.")] = "bf16",
    state_format: Annotated[str, Option(help="Of the optimizer's moments: fp32, bf16, int8, fp4_e2m1, ..")] = "int8",
    factored: Annotated[bool, Option("--factored", help="Second moments as rows and columns.")] = False,
    release: Annotated[bool, Option(help="Use and free gradients inside backward.")] = True,
    grad_format: Annotated[str, Option(help="Round gradients of weights: none, bf16, fp8_e4m3, ..")] = "none",
    backward_format: Annotated[
        str, Option(help="Round gradients between the language model's blocks: none, bf16, fp8_e4m3, ..")
    ] = "fp8_e4m3",
    activations: Annotated[str, Option(help="Format of saved activations: none, int8, fp8_e4m3, int4.")] = "int8",
    checkpointing: Annotated[bool, Option("--checkpointing", help="Run the forward again in backward.")] = False,
    max_length: Annotated[int, Option(help="Tokens of a sample; 0: the model's own limit. Nothing is cut off.")] = 0,
    too_long: Annotated[str, Option(help="Rows that do not fit: error, skip.")] = "error",
    lora: Annotated[int, Option(help="Rank of LoRA adapters; 0: all weights are trained.")] = 0,
    nan: Annotated[str, Option(help="A loss that is no number: stop, skip.")] = "stop",
    evaluate_every: Annotated[int, Option(help="Steps between looks at the val split; 0: never.")] = 200,
    evaluate_rows: Annotated[int, Option(help="Rows of each stage looked at.")] = 32,
    patience: Annotated[int, Option(help="Looks without a better loss before it stops; 0: never.")] = 0,
    checkpoint_every: Annotated[int, Option(help="Steps between checkpoints.")] = 200,
) -> None:
    """Train an image-text model on a set. Under torchrun with --no-release, on several processes."""
    chosen = locals()
    settings = _settings(**{name: value for name, value in chosen.items() if name not in ("folder", "out")})
    from medclm.training.loop import train as run

    result = run(folder, out, settings)
    typer.echo(f"{out}: {_said(result)}; the model is in {out / 'checkpoint'}")


def _settings(**options: Any) -> Settings:
    from medclm.training.settings import Settings

    try:
        return Settings(**options)
    except ValueError as error:
        raise DataError(str(error)) from None


def _said(result: dict) -> str:
    shown = ", ".join(f"{stage} {count:,}" for stage, count in result["shown"].items())
    validation = "" if result["validation"] is None else f", validation {result['validation']['mean']:.4f}"
    early = f" ({result['stopped_early']})" if result["stopped_early"] else ""
    skipped = f", {result['skipped']} skipped" if result["skipped"] else ""
    return f"{result['step']} steps{early}{validation}, shown {shown}{skipped}"
