"""The training loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from stylenat.config import RunConfig
from stylenat.data import ImageSource, training_batches
from stylenat.distributed import all_reduce_sum_, barrier, is_main, rank, world_size
from stylenat.metrics import Evaluator, Scores
from stylenat.models.pixels import from_uint8
from stylenat.training import show
from stylenat.training.checkpoint import save_checkpoint
from stylenat.training.inputs import step_inputs
from stylenat.training.report import (
    Averages,
    Bar,
    Clock,
    Services,
    line_of,
    logging_to,
    peak_memory_gb,
)
from stylenat.training.run_folder import RunFolder
from stylenat.training.start import (
    check_batch,
    make_evaluator,
    newest_state,
    open_training_images,
    prepare_torch,
)
from stylenat.training.state import TrainingState, set_learning_rates, update_average
from stylenat.training.steps import d_step, g_step, has_penalty, penalty_step

log = logging.getLogger(__name__)


def train(config: RunConfig, run_dir: Path, device: torch.device) -> bool:
    """Train, or continue the run in `run_dir`; whether it has come to its end.

    False after SIGINT or SIGTERM: the step was finished and a checkpoint written. Every rank calls
    this. Raises ValueError and OSError, one sentence each, before anything is written where the
    config, the data or the folder do not fit, and ValueError where training diverges.
    """
    # What can be wrong is found out first.
    check_batch(config)
    source = open_training_images(config)
    evaluate = make_evaluator(config, source, device)
    folder = RunFolder(run_dir)
    if is_main():
        folder.open(config)
    barrier()
    state, seconds = newest_state(config, folder, device)
    prepare_torch(config, state)

    with ExitStack() as stack:
        bar = stack.enter_context(Bar(config.train.total_nimg, state.nimg))
        stack.enter_context(logging_to(folder, bar))
        run = Run(config, folder, source, evaluate, state, bar, seconds)
        run.announce()
        stop = stack.enter_context(stop_signals())
        batches = training_batches(
            source,
            seed=config.train.seed,
            batch=config.train.batch,
            start_nimg=state.nimg,
            mirror=config.data.mirror,
            rank=rank(),
            world_size=world_size(),
            workers=config.data.workers,
            pin_memory=device.type == "cuda",
        )
        stack.enter_context(closing(batches))
        return run.loop(batches, stop)


class Run:
    """One start of a run, from its newest state on."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        source: ImageSource,
        evaluate: Evaluator | None,
        state: TrainingState,
        bar: Bar,
        seconds: float,
    ) -> None:
        self.config, self.folder, self.source, self.evaluate = config, folder, source, evaluate
        self.state, self.bar = state, bar
        self.averages, self.clock = Averages(), Clock(seconds)
        self.services = Services(config, folder)
        self.device = next(state.G.parameters()).device

    def loop(self, batches: Iterator[torch.Tensor], stop: threading.Event) -> bool:
        """Steps until the last image, or until a signal; whether it was the last image."""
        config, state = self.config.train, self.state
        self.clock.restart(state.nimg)
        while state.nimg < config.total_nimg:
            self.step(next(batches))
            is_last = state.nimg >= config.total_nimg
            is_stopped = not is_last and on_any_rank(stop.is_set(), self.device)
            is_snapshot = is_last or self.has_passed(config.snapshot_every_kimg * 1000)
            is_evaluation = self.evaluate is not None and (
                is_last or self.has_passed(self.config.metrics.every_kimg * 1000)
            )
            pauses = is_snapshot or is_evaluation or is_stopped
            if pauses or self.has_passed(config.log_every_nimg):
                self.log_statistics()
            if pauses:
                self.write(snapshot=is_snapshot or is_evaluation, evaluation=is_evaluation)
            if is_stopped:
                log.info("stopped at %.1f kimg; the same command continues", state.nimg / 1000)
                return False
        log.info("done: %g kimg, in %s", state.nimg / 1000, self.folder.path)
        return True

    def step(self, pixels_B3HW: torch.Tensor) -> None:
        """One step of D, of its penalty when it is due, and of G."""
        config, state = self.config.train, self.state
        pixels_BHW3 = pixels_B3HW.to(self.device, non_blocking=True).permute(0, 2, 3, 1)
        real = from_uint8(pixels_BHW3, self.config.model.generator.pixel_space)
        inputs = step_inputs(real, seed=config.seed, step=state.step, z_dim=state.G.z_dim)
        set_learning_rates(state, config)

        self.averages.add(d_step(state, inputs, config))
        if has_penalty(config) and config.r1_every > 1 and state.step % config.r1_every == 0:
            self.averages.add(penalty_step(state, inputs, config))
        self.averages.add(g_step(state, inputs, config))

        state.step += 1
        state.nimg += config.batch
        update_average(state, config, config.batch)
        self.bar.move(state.nimg)

    def has_passed(self, every_nimg: float) -> bool:
        """Whether the last step reached a multiple of `every_nimg` images."""
        nimg, batch = self.state.nimg, self.config.train.batch
        return nimg // every_nimg > (nimg - batch) // every_nimg

    def log_statistics(self) -> None:
        """One line to stats.jsonl, the log, the bar and the services."""
        state = self.state
        means = self.averages.take()
        strange = [name for name, value in means.items() if not math.isfinite(value)]
        if strange:
            raise ValueError(
                f"training diverged before {state.nimg / 1000:.1f} kimg: {', '.join(strange)} not "
                f"finite; {self.folder.checkpoints} holds the last good state; lower train.lr_g "
                "and train.lr_d, or raise train.r1_gamma"
            )
        speed = self.clock.lap(state.nimg)
        entry = {
            "step": state.step,
            "nimg": state.nimg,
            **means,
            "lr_g": state.optimizer_g.param_groups[0]["lr"],
            "lr_d": state.optimizer_d.param_groups[0]["lr"],
            "images_per_second": speed,
            "seconds": self.clock.seconds,
            "memory_gb": peak_memory_gb(self.device),
        }
        line = line_of(entry, self.config.train.total_nimg)
        self.bar.move(state.nimg, line.split("  ", 1)[1].rsplit("  ", 1)[0])
        log.debug(line)
        if is_main():
            self.folder.append_stats(entry)
            self.services.add(entry)

    def write(self, *, snapshot: bool, evaluation: bool) -> None:
        """A checkpoint, and where asked for: samples, the exported generator, its scores."""
        config, state, folder = self.config.train, self.state, self.folder
        if is_main():
            content = {**state.state_dict(), "seconds": self.clock.seconds}
            save_checkpoint(folder.checkpoints, content, keep=config.keep_checkpoints)
        if snapshot and is_main():
            show.save_grid(state.G_ema, config, folder.samples / f"{state.nimg:09d}.png")
            path = show.save_snapshot(state.G_ema, folder, state.nimg, keep=config.keep_snapshots)
        if evaluation:
            assert self.evaluate is not None
            scores = self.evaluate(state.G_ema)
            text = ", ".join(f"{name} {score:.4g}" for name, score in scores.values.items())
            log.info("%.1f kimg: %s", state.nimg / 1000, text)
            if is_main():
                self.keep_scores(scores, path)
        if is_main():
            show.draw_progress(folder)
        barrier()
        self.clock.restart(state.nimg)

    def keep_scores(self, scores: Scores, snapshot: Path) -> None:
        """A line in stats.jsonl, the protocol in it; the snapshot stays if it is the best yet."""
        entry = {
            "step": self.state.step,
            "nimg": self.state.nimg,
            "metrics": dict(scores.values),
            "rank": scores.rank_by(self.config.metrics.names[0]),
            "protocol": dict(scores.protocol),
        }
        self.folder.append_stats(entry)
        self.services.add({"nimg": self.state.nimg, **scores.values})
        show.keep_if_best(self.folder.read_stats(), snapshot, self.folder)

    def announce(self) -> None:
        """What is trained, from where, and at the very start a look at the data."""
        config, state = self.config.train, self.state
        for name in ("G", "D"):
            count = sum(p.numel() for p in getattr(state, name).parameters())
            log.info("%s: %.3f M parameters", name, count / 1e6)
        log.info("data: %s", self.source.describe())
        log.info(
            "%d images a step on %d x %s, %s, to %g kimg, in %s",
            config.batch,
            world_size(),
            self.device.type,
            config.precision,
            config.total_kimg,
            self.folder.path,
        )
        if state.nimg:
            log.info("continuing from %.1f kimg", state.nimg / 1000)
        elif is_main():
            show.save_real_grid(self.source, config, self.folder.samples / "reals.png")
            show.save_grid(state.G_ema, config, self.folder.samples / f"{0:09d}.png")


# Signals


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM only set the event within the block."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: event.set()) for number in signals]
    try:
        yield event
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def on_any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on some rank: all of them learn it in the same step."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum_(torch.tensor(int(flag), device=device)))
