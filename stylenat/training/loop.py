"""The training loop: when a run steps, logs, saves, shows and measures."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from stylenat.config import RunConfig
from stylenat.data import Batch, Interrupted
from stylenat.data.plan import BatchPlan
from stylenat.distributed import (
    START_TIMEOUT_SECONDS,
    is_main,
    leave_alone,
    run_on_main,
    set_timeout,
    step_timeout_seconds,
)
from stylenat.ending import unhurried
from stylenat.files import check_can_fill
from stylenat.metrics import Evaluator, Stopped
from stylenat.models.pixels import from_uint8
from stylenat.training.augmenting import adapt
from stylenat.training.classes import set_class_weight, with_class_names
from stylenat.training.holdout import HeldOut
from stylenat.training.inputs import labels_of, step_inputs
from stylenat.training.outputs import Outputs
from stylenat.training.report import Clock, TrainingBar, lasting_stderr, logging_to
from stylenat.training.run_folder import RunFolder
from stylenat.training.services import Services
from stylenat.training.start import (
    Start,
    TrainingImages,
    announce,
    described_start,
    identity_of,
    make_evaluator,
    newest_state,
    open_batches,
    open_training_images,
    plan_of,
    prepare_torch,
    read_init_from,
    warn_of_other_data,
)
from stylenat.training.state import set_learning_rates, update_average
from stylenat.training.statistics import Statistics
from stylenat.training.steps import d_step, g_step, has_penalty, penalty_step
from stylenat.training.stopping import StopRequest, stop_signals
from stylenat.training.watch import Watch

log = logging.getLogger(__name__)


def train(config: RunConfig, run_dir: Path, device: torch.device) -> signal.Signals | None:
    """Train, or continue the run in `run_dir`. Returns the signal that stopped it, None at its end.

    After SIGINT, SIGTERM and SIGUSR1 the step is finished and a checkpoint written. Every rank
    calls this. Raises ValueError or OSError, one sentence, before anything is written, if the
    config, the data or the folder do not fit; later ValueError if training diverges, and OSError
    if it can no longer save.
    """
    # Find out first what can be wrong.
    plan = plan_of(config)
    step_seconds = step_timeout_seconds()
    run_on_main(lambda: check_can_fill(run_dir))
    images = open_training_images(config)
    config = with_class_names(config, images.all)
    folder = RunFolder(run_dir)
    with ExitStack() as stack:
        stack.enter_context(folder.lock)
        run_on_main(lambda: folder.claim(config))
        evaluate = make_evaluator(config, images.all, device)
        transfer = read_init_from(config, folder)
        run_on_main(lambda: folder.open(config))

        stack.enter_context(lasting_stderr())
        bar = TrainingBar(config.train.total_nimg)
        stack.enter_context(bar)
        stack.enter_context(logging_to(folder, bar))
        run_on_main(lambda: folder.clean(keep_checkpoints=config.train.keep_checkpoints))
        start = newest_state(config, folder, device, transfer)
        del transfer  # a second copy of all networks
        run_on_main(lambda: folder.rewind_stats(start.state.nimg))
        prepare_torch(config, start.state)
        data = run_on_main(lambda: identity_of(images.trained))
        warn_of_other_data(start.data, data)

        run = Run(config, plan, folder, images, evaluate, start, bar, data)
        stack.callback(run.services.close)
        announce(config, plan, images, start.state, folder)
        about = (config, plan, images, start.state, data)
        run_on_main(lambda: folder.append_start(described_start(*about)))
        if not start.state.nimg:
            run_on_main(lambda: run.outputs.write_first_look(images.trained, images.labels_N))
        stop = stack.enter_context(stop_signals())
        batches = open_batches(config, plan, images, start.state, stop.ends_waiting)
        stack.enter_context(closing(batches))
        try:
            return run.loop(batches, stop, step_seconds=step_seconds)
        except Stopped:  # in an evaluation; the state was saved, and the next start measures it
            stop.agreed(device)
            number = stop.agreed(device)  # several ranks learn the answer one call later
            assert number is not None
            return run.end_by_signal(number)
        except Interrupted:
            assert stop.number is not None
            leave_alone()
            return run.end_by_signal(signal.Signals(stop.number))


class Run:
    """One start of a run, from its newest state on."""

    def __init__(
        self,
        config: RunConfig,
        plan: BatchPlan,
        folder: RunFolder,
        images: TrainingImages,
        evaluate: Evaluator | None,
        start: Start,
        bar: TrainingBar,
        data: dict[str, Any],
    ) -> None:
        self.config, self.plan, self.folder = config, plan, folder
        self.evaluate = evaluate
        self.state, self.bar = start.state, bar
        self.clock = Clock(start.seconds)
        self.watch = Watch(config, folder, images.trained)
        self.services = Services(config, folder)
        self.outputs = Outputs(config, folder, start.state, self.services, data)
        held_out = None
        if images.held_out is not None:
            classes = config.model.classes
            held_out = HeldOut(images.trained, images.held_out, plan, classes)
        self.statistics = Statistics(config, folder, self.services, bar, self.clock, held_out)
        labels_N = images.labels_N
        self.labels_N = None if labels_N is None else torch.from_numpy(labels_N)
        self.device = next(start.state.G.parameters()).device

    def loop(
        self, batches: Iterator[Batch], stop: StopRequest, *, step_seconds: float
    ) -> signal.Signals | None:
        """Take steps until the last image, or until a signal, which is returned."""
        config, state = self.config.train, self.state
        self.catch_up(stop)
        self.clock.restart(state.nimg)
        is_patient = True  # ranks wait for each other as long as at the start
        while state.nimg < config.total_nimg:
            # Take one step.
            batch = self.next_batch(batches)
            with unhurried():
                self.step(batch)
            if is_patient:
                set_timeout(step_seconds)
                is_patient = False

            # See what is due, and whether to stop.
            is_snapshot, is_evaluation = self.due()
            stopped_by = None if self.is_last else stop.agreed(self.device)
            pauses = is_snapshot or stopped_by is not None

            # Log statistics: they are written in the next step.
            if pauses or self.has_passed(config.log_every_nimg):
                self.statistics.begin_line(state)

            # Save, show and measure; all ranks wait for the slowest.
            if pauses:
                self.watch.check()
                self.statistics.write()
                set_timeout(START_TIMEOUT_SECONDS)
                is_patient = True
                self.save(must_succeed=self.is_last or stopped_by is not None)
                self.write_outputs(stop, snapshot=is_snapshot, evaluation=is_evaluation)
            if stopped_by is not None:
                return self.end_by_signal(stopped_by)
        log.info("done: %g kimg, in %s", state.nimg / 1000, self.folder.path)
        return None

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next step's images. If they cannot be had, what has been trained so far is saved."""
        try:
            return next(batches)
        except (Interrupted, ValueError, OSError):
            # No collective: the others may be in a step that this rank will not take.
            self.statistics.write()
            if is_main():
                self.outputs.save_before_an_error(self.clock.seconds)
            raise

    def step(self, batch: Batch) -> None:
        """One step of D, one of its penalty if that is due, and one of G."""
        config, state = self.config.train, self.state
        pixels_BHW3 = batch.pixels_BHW3.to(self.device, non_blocking=True)
        real = from_uint8(pixels_BHW3, self.config.model.generator.pixel_space)
        labels = labels_of(batch, self.labels_N)
        where = {"seed": config.seed, "step": state.step, "z_dim": state.G.z_dim}
        inputs = step_inputs(real, self.plan, labels, **where)
        set_learning_rates(state, config)
        set_class_weight(state, config)

        losses = d_step(state, inputs, config)
        if has_penalty(config) and config.r1_every > 1 and state.step % config.r1_every == 0:
            losses |= penalty_step(state, inputs, config)
        losses |= g_step(state, inputs, config)
        # What the step before has left to be read is on the host by now.
        self.statistics.write()
        self.statistics.add(losses)
        self.watch.record(state.step, losses)

        state.step += 1
        adapt(state, config)
        state.nimg += self.plan.batch
        update_average(state, config, self.plan.batch)
        self.bar.show(state.nimg)

    @property
    def is_last(self) -> bool:
        return self.state.nimg >= self.config.train.total_nimg

    def due(self) -> tuple[bool, bool]:
        """Whether this state is to be kept and shown, and whether it is to be measured."""
        is_evaluation = self.evaluate is not None and (
            self.is_last or self.has_passed(self.config.metrics.every_kimg * 1000)
        )
        is_snapshot = self.is_last or self.has_passed(self.config.train.snapshot_every_kimg * 1000)
        return is_snapshot or is_evaluation, is_evaluation

    def has_passed(self, every_nimg: float) -> bool:
        """Whether the last step reached a multiple of `every_nimg` images."""
        nimg, batch = self.state.nimg, self.plan.batch
        return nimg // every_nimg > (nimg - batch) // every_nimg

    def save(self, *, must_succeed: bool) -> None:
        seconds = self.clock.seconds
        with unhurried():
            run_on_main(lambda: self.outputs.save(seconds, must_succeed=must_succeed))

    def write_outputs(self, stop: StopRequest, *, snapshot: bool, evaluation: bool) -> None:
        """Write samples, snapshot and scores, as far as they are asked for; and the curves."""
        outputs = self.outputs
        if snapshot:
            run_on_main(lambda: outputs.export(must_succeed=self.is_last))
        if evaluation:
            assert self.evaluate is not None
            scores = self.evaluate(self.state.G_ema, stopped=stop.has_come)
            text = ", ".join(f"{name} {score:.4g}" for name, score in scores.values.items())
            log.info("%.1f kimg: %s", self.state.nimg / 1000, text)
            run_on_main(lambda: outputs.keep_scores(scores))
        run_on_main(outputs.draw)
        self.clock.restart(self.state.nimg)

    def catch_up(self, stop: StopRequest) -> None:
        """Show and measure the newest state, if the process that saved it ended before it did."""
        is_snapshot, is_evaluation = self.due()
        if self.state.nimg and is_snapshot:
            is_shown = run_on_main(lambda: self.outputs.is_shown(is_measured=is_evaluation))
            if not is_shown:
                self.write_outputs(stop, snapshot=True, evaluation=is_evaluation)

    def end_by_signal(self, number: signal.Signals) -> signal.Signals:
        """Note in the folder and the log which signal stopped the run."""
        if is_main():
            self.outputs.mark_stopped(number.name)
        log.info(
            "stopped by %s at %.1f kimg; the same command continues",
            number.name,
            self.state.nimg / 1000,
        )
        return number
