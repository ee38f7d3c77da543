"""What a running experiment shows, and how it is asked to stop."""

import signal
import threading
from types import FrameType
from typing import Any

import rich.progress
from rich.console import Console


class Progress:
    """A bar with the running means of the epoch on a terminal; one line an epoch everywhere."""

    def __init__(self, epochs: int, batches: int, batch_size: int) -> None:
        self.epochs, self.batches, self.batch_size = epochs, batches, batch_size
        self.console = Console()
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=batches, note="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, at: Any) -> None:
        """``at`` is the Position of the run, read a moment ago."""
        if self.bar.disable:
            return
        loss, hits, count = at.totals.tolist()
        speed = self.bar.tasks[0].speed
        note = f"loss {loss / count:.3f}  accuracy {hits / count:.1%}"
        if speed:
            note += f"  {speed * self.batch_size:,.0f} images/s"
        if at.readings.get("count"):
            mean = {name: value / at.readings["count"] for name, value in at.readings.items()}
            note += f"  std {mean['global_std']:.2e}  q {mean['q_mean']:.4f}"
        self.bar.update(
            self.task, description=f"epoch {at.epoch + 1}/{self.epochs}", completed=at.batch, note=note
        )

    def show_epoch(self, row: dict[str, float]) -> None:
        text = (
            f"epoch {row['epoch']:>3}/{self.epochs}  lr {row['lr']:.4f}  loss {row['train_loss']:.4f}  "
            f"train {row['train_accuracy']:.2%}  test {row['test_accuracy']:.2%}  "
            f"{row['images_per_second']:,.0f} images/s"
        )
        if row["global_std"] == row["global_std"]:
            text += f"  std {row['global_std']:.3e}  q {row['q_mean']:.4f}"
        self.bar.console.print(text, highlight=False, soft_wrap=True)


class StopRequest:
    """While active, the first SIGINT or SIGTERM only sets ``requested``; the second acts as it always did."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
