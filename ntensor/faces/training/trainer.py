"""The training loop: updates, validation, checkpoints, and how a run stops and resumes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ntensor
from ntensor.faces.common.errors import CheckpointError, FacesError, NonFiniteError
from ntensor.faces.configuration import Configuration, to_json
from ntensor.faces.datasets.records import get_input
from ntensor.faces.networks.model import build
from ntensor.faces.reading import check_tensors
from ntensor.faces.writing import grids
from ntensor.faces.writing.files import LOCK, locked, remove_unfinished, write_text

from . import checkpoint, preparation
from .draws import Draws
from .independence import build_separation
from .log import Log
from .objective import TrainingStep, add_up, build_adversary, compute_terms
from .processes import Processes
from .samples import Samples, Told
from .sampling import Updates, check_pairs
from .schedule import build_optimizer, compute_rate
from .signals import catch_signals, leave_to_parent

STEMS = ("model", "training")
PICTURED = 8


class Trainer:
    """Trains a network, or continues the run whose checkpoints are in the folder.

    Args:
        configuration (Configuration)
        run (Path): folder of the run.
        training, validation (Samples): batches by index; of different identities.
        processes (Processes): already entered.
        verification (Module or None): maps images to embeddings, for `E_veri`.

    Raises:
        ConfigurationError: incompatible settings.
    """

    def __init__(
        self,
        configuration: Configuration,
        run: Path,
        training: Samples,
        validation: Samples,
        processes: Processes,
        verification: nn.Module | None = None,
    ) -> None:
        preparation.check_settings(configuration, processes.world, processes.device)
        self.configuration, self.run, self.processes = configuration, run, processes
        self.training, self.validation = training, validation
        settings = configuration.training
        if configuration.losses.of_pairs:
            check_pairs(training.size, training.blocks)
        self.device = processes.device
        torch.manual_seed(settings.seed)
        self.accumulates = preparation.accumulates(configuration, processes.world)
        model = build(replace(configuration.model, accumulate_core_grad=self.accumulates))
        model.statistics.set(training.statistics)
        adversary = build_adversary(configuration)
        preparation.place(model, self.device)
        self.model, self.adversary = model, adversary
        self.verification = verification
        self.separation = build_separation(configuration)
        if self.separation is not None:
            self.separation.to(self.device)
        self.optimizer = build_optimizer(model.parameters(), settings.learning_rate)
        self.rates = {"model": settings.learning_rate}
        self.rival: torch.optim.Optimizer | None = None
        if adversary is not None:
            preparation.place(adversary, self.device)
            self.rates["adversary"] = settings.discriminator_rate
            self.rival = build_optimizer(adversary.parameters(), settings.discriminator_rate)
        if verification is not None:
            verification.to(self.device).requires_grad_(False).eval()
        skips = configuration.model.skips and hasattr(model, "decode_surface")
        self.draws = Draws(settings, processes, skips)
        self.step = 0
        self.stopping: list[str] = []

    def train(self) -> str:
        """Runs until the last update or a signal; returns `"finished"` or the signal's name.

        Raises:
            ConfigurationError: the folder holds a run of another configuration.
            OutputError: another process writes to the folder, or it is not writable.
            CheckpointError: a checkpoint cannot be read or written.
            NonFiniteError: a term is NaN or infinite; names it and the last good checkpoint.
        """
        with self.hold_folder():
            return self.run_updates()

    @contextlib.contextmanager
    def hold_folder(self) -> Iterator[None]:
        """Locks the folder and resumes the run in it.

        Nothing in the folder is changed before everything has been checked.
        """
        processes = self.processes
        with contextlib.ExitStack() as held:
            if processes.leads:
                preparation.check_name(self.run)
                held.enter_context(locked(self.run, self.run / LOCK))
                preparation.check_standing(self.run, self.configuration)
            processes.wait()
            self.resume()
            if processes.leads:
                size = sum(p.numel() * p.element_size() for p in self.model.parameters())
                checkpoint.check_writable(self.run, wanted_bytes=4 * size)
                for folder in (self.run, self.run / "pictures"):
                    remove_unfinished(folder)
                self.prune()
                write_text(self.run / checkpoint.CONFIGURATION, to_json(self.configuration))
            yield

    def run_updates(self) -> str:
        """Runs the remaining updates; as `train`."""
        settings, processes = self.configuration.training, self.processes
        log = Log(self.run, settings.steps, self.step, settings.batch_size, processes.leads)
        step = self.build_step()
        with log, catch_signals(self.stopping.append), ntensor.use_backend(settings.backend):
            for parts in self.load_updates():
                self.update(step, parts, log)
                log.advance()
                last = self.step == settings.steps
                if last or self.step % settings.picture_every == 0:
                    self.draw(log)
                # All processes stop between the same two updates.
                stopped = processes.any(bool(self.stopping))
                value = None
                if last or self.step % settings.validate_every == 0:
                    value = self.validate(log)
                due = last or self.step % settings.checkpoint_every == 0
                if due or stopped:
                    self.save(value if due else None, log)
                if stopped and not last:
                    return self.stopping[0] if self.stopping else "stopped by another process"
        return "finished"

    def build_step(self) -> nn.Module:
        """The forward pass of an update, compiled and distributed as configured."""
        compiled = self.configuration.training.compile
        model = torch.compile(self.model) if compiled else self.model
        weights = self.configuration.losses
        skips_rows = not compiled and getattr(self.model, "multilinear", False)
        others = self.adversary, self.verification, self.separation
        step = TrainingStep(self.model, weights, *others, skips_rows=skips_rows)
        step.model = model  # type: ignore[assignment]
        shared = self.processes.share(step)
        if self.adversary is not None:
            self.rival_network = self.processes.share(self.adversary.network)
        return shared

    def load_updates(self) -> Iterator[list[dict[str, Tensor]]]:
        """The batches of each update as a list of its parts, on the device."""
        settings, processes = self.configuration.training, self.processes
        sampler = Updates(
            self.training.size,
            settings.batch_size,
            settings.accumulation,
            self.step,
            settings.steps,
            settings.seed,
            processes.rank,
            processes.world,
            self.training.blocks,
            self.configuration.losses.of_pairs,
        )
        loader: DataLoader[dict[str, Tensor] | FacesError] = DataLoader(
            Told(self.training),  # type: ignore[arg-type]
            sampler=sampler,
            batch_size=None,
            num_workers=self.configuration.data.workers,
            worker_init_fn=leave_to_parent,
            # Otherwise each start would draw from torch's own generator.
            generator=torch.Generator(),
        )
        parts = []
        for batch in loader:
            if isinstance(batch, FacesError):
                raise batch
            parts.append(self.to_device(batch))
            if len(parts) == settings.accumulation:
                yield parts
                parts = []

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        for name in ("image", "input"):
            if name in moved:
                moved[name] = moved[name].contiguous(memory_format=torch.channels_last)
        return moved

    def autocast(self) -> Any:
        half = self.configuration.training.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def update(self, step: nn.Module, parts: list[dict[str, Tensor]], log: Log) -> None:
        """One update of the network, then one of the adversary."""
        settings = self.configuration.training
        codes_only = self.codes_only(self.step)
        self.set_rates()
        self.optimizer.zero_grad(set_to_none=not self.accumulates)
        if self.adversary is not None:
            self.adversary.requires_grad_(False)
        means: dict[str, Tensor] = {}
        outputs = []
        for number, given in enumerate(parts):
            batch = self.draws.vary_input(given, self.step, number, codes_only)
            with self.synchronise(step, number == len(parts) - 1):
                with self.autocast():
                    fits = self.draws.draw_fits(self.step, number, len(batch["image"]))
                    loss, named, output = step(batch, codes_only, fits)
                (loss / len(parts)).backward()
            for name, term in named.items():
                means[name] = means.get(name, 0) + term / len(parts)
            outputs.append(output)
        means = self.processes.mean(means)
        weighted = add_up(means, self.configuration.losses)
        self.check_finite({**means, "total": weighted})
        if settings.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        told = {}
        if self.adversary is not None and not codes_only:
            told = self.update_adversary(parts, outputs)
        self.step += 1
        if self.step % settings.log_every == 0 or self.step == settings.steps:
            values = {name: float(term) for name, term in means.items()}
            log.log_losses(self.step, float(weighted), values | told)

    def codes_only(self, number: int) -> bool:
        """Whether the update after `number` others trains only the codes."""
        settings = self.configuration.training
        return number < settings.code_steps and hasattr(self.model, "regress")

    def update_adversary(
        self, parts: list[dict[str, Tensor]], outputs: list[dict[str, Tensor]]
    ) -> dict[str, float]:
        """One update of the adversary on the outputs of this update; returns what to log."""
        adversary, rival = self.adversary, self.rival
        assert adversary is not None and rival is not None
        adversary.requires_grad_(True)
        rival.zero_grad(set_to_none=True)
        seed = (self.configuration.training.seed << 40) + self.step * 1024 + self.processes.rank
        generator = torch.Generator().manual_seed(seed % 2**63)
        means: dict[str, Tensor] = {}
        for number, (batch, output) in enumerate(zip(parts, outputs, strict=True)):
            with self.synchronise(self.rival_network, number == len(parts) - 1):
                with self.autocast():
                    loss, named = adversary.objective(self.rival_network, output, batch, generator)
                (loss / len(parts)).backward()
            for name, term in named.items():
                means[name] = means.get(name, 0) + term / len(parts)
        means = self.processes.mean(means)
        self.check_finite(means)
        rival.step()
        return {**{name: float(v) for name, v in means.items()}, **adversary.update(means)}

    def set_rates(self) -> None:
        factor = compute_rate(self.configuration.training, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.rates["model"]
        for group in self.rival.param_groups if self.rival else []:
            group["lr"] = factor * self.rates["adversary"]

    @staticmethod
    def synchronise(module: nn.Module, last: bool) -> Any:
        """Gradients are averaged over processes only after the last part of an update."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
            return module.no_sync()
        return contextlib.nullcontext()

    def check_finite(self, values: dict[str, Tensor]) -> None:
        finite = torch.stack([value.float() for value in values.values()]).isfinite()
        if bool(finite.all()):
            return
        names = [name for name, good in zip(values, finite.tolist(), strict=True) if not good]
        steps = checkpoint.saved_steps(self.run)
        good = str(checkpoint.folder_of(self.run, steps[-1])) if steps else "none was written"
        raise NonFiniteError(
            f"update {self.step + 1}: loss {', '.join(names)} is NaN or infinite; "
            f"last good checkpoint: {good}"
        )

    @torch.no_grad()
    def validate(self, log: Log) -> float:
        """The weighted sum of the terms on the validation set; also logs each term."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        weights = self.configuration.losses
        size = self.validation.size or 0
        part = self.configuration.training.batch_size
        for first in range(0, size, part):
            indices = list(range(first, min(size, first + part)))
            batch = self.to_device(self.validation[indices])
            with self.autocast():
                output = self.model(get_input(batch))
            part_terms = compute_terms(output, batch, weights, self.model.statistics)
            for name, term in part_terms.items():
                sums[name] = sums.get(name, 0) + term * (len(indices) / size)
        self.model.train()
        weighted = float(add_up(sums, weights))
        values = {name: float(term) for name, term in sums.items()}
        log.log_scalars(self.step, "validation", {"total": weighted, **values})
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.say(f"step {self.step}: validation {weighted:.5g} ({text})")
        return weighted

    @torch.no_grad()
    def draw(self, log: Log) -> None:
        """Logs a grid of validation faces."""
        if not self.processes.leads:
            return
        count = min(PICTURED, self.validation.size or 0)
        batch = self.to_device(self.validation[list(range(count))])
        with self.autocast():
            output = self.model(get_input(batch))
        log.log_pictures(self.step, grids.make_columns(batch, output))

    def save(self, value: float | None, log: Log) -> None:
        """Writes a checkpoint; the validation `value` decides whether it is the best.

        The log is flushed first, since a run that resumes from here does not log that part again.
        """
        log.flush()
        if self.processes.leads:
            training = checkpoint.pack_optimizer("optimizer", self.optimizer)
            training["random_state"] = torch.get_rng_state()
            if self.rival is not None:
                training |= checkpoint.pack_optimizer("rival", self.rival)
            for name, module in self.list_companions().items():
                training |= {f"{name}.{key}": t for key, t in module.state_dict().items()}
            tensors = {"model": self.model.state_dict(), "training": training}
            values = {
                "step": self.step,
                "validation": value,
                "ntensor": ntensor.__version__,
                "torch": torch.__version__,
            }
            checkpoint.save(self.run, self.step, tensors, values)
            self.prune()
        self.processes.wait()

    def prune(self) -> None:
        settings = self.configuration.training
        checkpoint.prune(self.run, settings.keep, settings.checkpoint_every)

    def resume(self) -> None:
        """Resumes from the newest checkpoint in the folder, if there is one."""
        # `save` needs it later; a damaged checkpoint is reported before anything is computed.
        checkpoint.best(self.run)
        steps = checkpoint.saved_steps(self.run)
        if not steps:
            return
        folder = checkpoint.folder_of(self.run, steps[-1])
        tensors, values = checkpoint.load(folder, STEMS)
        training = tensors["training"]
        preparation.load_weights(self.model, tensors["model"], "model")
        checkpoint.unpack_optimizer("optimizer", self.optimizer, training)
        if self.rival is not None:
            fought = not self.codes_only(values["step"] - 1)
            checkpoint.unpack_optimizer("rival", self.rival, training, fought)
        for name, module in self.list_companions().items():
            mine = {key: t for key, t in training.items() if key.startswith(f"{name}.")}
            preparation.load_weights(
                module, {k.removeprefix(f"{name}."): t for k, t in mine.items()}, name
            )
        random_state = {"random_state": torch.get_rng_state()}
        saved = {key: t for key, t in training.items() if key in random_state}
        try:
            check_tensors(saved, random_state)
            torch.set_rng_state(saved["random_state"])
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: {error}") from error
        self.step = int(values["step"])

    def list_companions(self) -> dict[str, nn.Module]:
        """The modules saved along with the network to resume its training."""
        modules = {"adversary": self.adversary, "separation": self.separation}
        return {name: module for name, module in modules.items() if module is not None}
