"""The log of a run: a progress line, TensorBoard, pictures."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ntensor.faces.writing import grids


class Log:
    """Progress on stderr, scalars to TensorBoard, grids as PNG; silent if `leads` is False.

    Args:
        run (Path): folder; gets `tensorboard/` and `pictures/`.
        steps, start (int): updates in total, and those already done.
        batch_size (int): images per update.
        leads (bool): whether this process writes.
    """

    def __init__(
        self, run: Path, steps: int, start: int, batch_size: int, leads: bool = True
    ) -> None:
        self.run, self.steps, self.start = run, steps, start
        self.batch_size, self.leads = batch_size, leads
        self.bar: Any = None
        self.writer: Any = None

    def __enter__(self) -> Log:
        if self.leads:
            from torch.utils.tensorboard import SummaryWriter
            from tqdm import tqdm

            # Entries after the resumed step are from a process that was killed before saving.
            self.writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.start + 1)
            self.bar = tqdm(
                total=self.steps,
                initial=self.start,
                unit="step",
                mininterval=0.5 if sys.stderr.isatty() else 15,
            )
        self.since, self.from_step = time.perf_counter(), self.start
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.leads:
            self.bar.close()
            self.writer.close()

    def advance(self) -> None:
        """Advances the progress bar by one update."""
        if self.leads:
            self.bar.update()

    def log_losses(self, step: int, total: float, values: Mapping[str, float]) -> None:
        """Logs the terms of an update, and the images per second since the last call."""
        if not self.leads:
            return
        now = time.perf_counter()
        speed = (step - self.from_step) * self.batch_size / max(now - self.since, 1e-9)
        self.since, self.from_step = now, step
        shown = sorted(values.items(), key=lambda item: -abs(item[1]))[:4]
        text = " ".join(f"{name} {value:.3g}" for name, value in shown)
        self.bar.set_postfix_str(f"loss {total:.4g}, {speed:.0f} images/s, {text}", refresh=False)
        self.log_scalars(step, "training", {"total": total, "images_per_second": speed, **values})

    def log_scalars(self, step: int, section: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of a step under `section/`."""
        if self.leads:
            for name, value in values.items():
                self.writer.add_scalar(f"{section}/{name}", value, step)

    def flush(self) -> None:
        """Waits until all scalars and pictures are written."""
        if self.leads:
            self.writer.flush()

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.leads:
            self.bar.write(text, file=sys.stderr)

    def log_pictures(self, step: int, shown: Mapping[str, Tensor]) -> None:
        """Writes a grid, as PNG and to TensorBoard."""
        if self.leads:
            grids.save_grid(self.run / "pictures" / f"step-{step:08d}.png", shown)
            grid = grids.draw_grid(shown)
            self.writer.add_image("faces", grid, step, dataformats="HWC")
