"""wandb and TensorBoard, which may fail without ending a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from stylenat.config import RunConfig, to_dict
from stylenat.distributed import is_main
from stylenat.training.run_folder import RunFolder

# How long a service that does not answer may keep the run waiting.
SECONDS_TO_START, SECONDS_TO_FINISH = 20, 10

log = logging.getLogger(__name__)


class Services:
    """Hands statistics to wandb and TensorBoard. One that fails is left out from then on."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.services: dict[str, Service] = {}
        if not is_main():
            return
        if config.train.tensorboard:
            self._try("tensorboard", lambda: TensorBoard(folder))
        if config.train.wandb != "off":
            self._try("wandb", lambda: Wandb(config, folder))

    def _try(self, name: str, make: Callable[[], Service]) -> None:
        try:
            self.services[name] = make()
        except Exception as error:
            self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self.services.pop(name, None)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log.warning("%s is left out from here on: %s", name, reason)

    def add(self, entry: dict[str, Any]) -> None:
        """Hand one line of statistics to every service."""
        numbers = {name: x for name, x in entry.items() if isinstance(x, int | float)}
        for name, service in list(self.services.items()):
            try:
                service.write(numbers)
            except Exception as error:
                self._leave_out(name, error)

    def close(self) -> None:
        """Let every service write what it still holds."""
        for name, service in list(self.services.items()):
            try:
                service.close()
            except Exception as error:
                self._leave_out(name, error)


class Service(Protocol):
    def write(self, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Files in the run's folder, which `tensorboard --logdir` shows."""

    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder.tensorboard))

    def write(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, global_step=int(numbers["nimg"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run on wandb's servers, or in a folder that `wandb sync` sends."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        import wandb

        mode = config.train.wandb
        assert mode != "off"
        limits = {"init_timeout": SECONDS_TO_START, "finish_timeout": SECONDS_TO_FINISH}
        known = getattr(getattr(wandb, "Settings", None), "model_fields", {})
        # With the name of the run's folder as id, a later start continues the same curve.
        self.run = wandb.init(
            project="stylenat",
            id=folder.path.resolve().name,
            resume="allow",
            dir=str(folder.path),
            mode=mode,
            config=to_dict(config),
            settings={name: limit for name, limit in limits.items() if name in known},
        )

    def write(self, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=int(numbers["nimg"]))

    def close(self) -> None:
        self.run.finish()
