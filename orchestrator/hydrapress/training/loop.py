"""The training loop behind ``hydrapress.training.plan.train``."""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from hydrapress.errors import StageError
from hydrapress.task import Split, each_input

from .determinism import EpochOrder, own_accelerate_state, own_process_state, seed_everything
from .plan import Loss, Optimizer, TrainingPlan, rate_at
from .state import Progress, read_state, tensors_of, write_state

if TYPE_CHECKING:
    from collections.abc import Sized

    from hydrapress.artifacts import TorchModel
    from hydrapress.context import Bar, Context

    from .callback import Callback

__all__ = ["Loop"]

_LOOK_EVERY = 10
"""Steps between two looks at the loss: each look waits for the device."""

_EVALUATION_BATCH = 256


class Loop:
    """One training."""

    def __init__(
        self,
        model: TorchModel,
        plan: TrainingPlan,
        context: Context,
        loss: Loss | None,
        name: str,
        callback: Callback,
    ) -> None:
        self.model, self.plan, self.context = model, plan, context
        self.objective = context.task.objective
        self.loss: Loss = loss or self._task_loss
        self.checkpoint = context.scratch / f"{name}.safetensors"
        self.label = name
        self.callback = callback
        self.metric = f"val_{self.objective.metric}"

    def run(self) -> TorchModel:
        """Train, or go on where a checkpoint left off, and give the best epoch's model."""
        with own_process_state(self.plan.threads, self.context.device), own_accelerate_state():
            accelerator = Accelerator(cpu=self.context.device == "cpu", mixed_precision="no", rng_types=[])
            if accelerator.device.type != self.context.device:
                raise StageError(
                    f"stage '{self.context.stage_id}': asked to train on '{self.context.device}', but "
                    f"accelerate chose '{accelerator.device.type}'; check the variables ACCELERATE_*"
                )
            return self._run(accelerator)

    def _run(self, accelerator: Accelerator) -> TorchModel:
        order = EpochOrder(self._train_size(), self.context.seed)
        data = self.context.task.splits[Split.TRAIN]
        batches: Any = DataLoader(
            data,
            batch_size=self.plan.batch_size,
            sampler=order,
            # a last batch of one sample breaks batch norms, which need two
            drop_last=len(order) > self.plan.batch_size and len(order) % self.plan.batch_size == 1,
            generator=torch.Generator().manual_seed(0),
        )
        module = self.model.copy_module()
        self._project(module)
        progress = Progress(self._fingerprint(module))
        self.callback.begin(module.to(accelerator.device), self.plan.epochs * len(batches))
        module, optimizer, batches = accelerator.prepare(module, self._optimizer(module), batches)
        found = read_state(self.checkpoint, module, optimizer, self.callback, progress.fingerprint)
        if isinstance(found, str):
            self.context.warn(
                f"the checkpoint '{self.checkpoint.name}' is not used: {found}; training starts anew"
            )
        elif found is not None:
            progress = found
        with self.context.progress(self.label, self.plan.epochs * len(batches)) as bar:
            while not progress.finished:
                self._epoch(progress, module, optimizer, batches, order, accelerator, bar)
        if progress.best_epoch < 0:
            raise StageError(
                f"stage '{self.context.stage_id}': {self.label} ended before its method had come to its end, "
                f"so that no epoch can be handed on; raise epochs (now {self.plan.epochs})"
            )
        for name, tensor in tensors_of(module):
            tensor.copy_(progress.best[name])
        # sequenced so: unwrapping first, then off the device, then out of training mode
        trained: nn.Module = accelerator.unwrap_model(module).to("cpu").eval()
        # accelerate's own mark is no part of the model
        trained.__dict__.pop("_is_accelerate_prepared", None)
        return replace(self.model, module=trained)

    def _epoch(
        self,
        progress: Progress,
        module: nn.Module,
        optimizer: Any,
        batches: Any,
        order: EpochOrder,
        accelerator: Accelerator,
        bar: Bar,
    ) -> None:
        """Do one epoch, look at validation, leave a checkpoint."""
        epoch = progress.epochs_done
        order.epoch = epoch
        seed_everything(self.context.seed, epoch)
        train_loss = self._pass(epoch, module, optimizer, batches, accelerator, bar, progress)
        with self.callback.finished_form(module):
            val_loss, metric = self._validate(module, accelerator.device)
            if self.callback.eligible():
                progress.waited += 1
                if self._is_best(progress, metric, val_loss):
                    progress.best_epoch, progress.best_metric, progress.best_loss = epoch, metric, val_loss
                    progress.best = {name: tensor.clone() for name, tensor in tensors_of(module)}
                    progress.waited = 0
        self.context.log("train_loss", train_loss, step=epoch)
        self.context.log("val_loss", val_loss, step=epoch)
        self.context.log(self.metric, metric, step=epoch)
        progress.epochs_done += 1
        out_of_patience = 0 < self.plan.patience <= progress.waited
        progress.finished = progress.epochs_done >= self.plan.epochs or out_of_patience
        write_state(self.checkpoint, module, optimizer, self.callback, progress)

    def _is_best(self, progress: Progress, metric: float, val_loss: float) -> bool:
        better = metric - progress.best_metric
        if not self.objective.greater_is_better:
            better = -better
        return progress.best_epoch < 0 or better > 0 or (better == 0 and val_loss < progress.best_loss)

    def _pass(
        self,
        epoch: int,
        module: nn.Module,
        optimizer: Any,
        batches: Any,
        accelerator: Accelerator,
        bar: Bar,
        progress: Progress,
    ) -> float:
        """Go over the training split once; gives the mean loss."""
        module.train()
        steps, total = len(batches), 0.0
        seen, recent = 0, torch.zeros((), device=accelerator.device)
        shown = {self.metric: progress.best_metric} if progress.best_epoch >= 0 else {}
        trained = [*module.parameters(), *self.callback.parameters()]
        for step, (inputs, targets) in enumerate(batches):
            self.context.check_cancelled()
            self._set_rate(optimizer, epoch * steps + step, self.plan.epochs * steps)
            optimizer.zero_grad()
            with self.callback.training_form(module):
                loss = self.loss(module, each_input(inputs), targets)
                accelerator.backward(loss)
            if self.plan.clip_norm:
                accelerator.clip_grad_norm_(trained, self.plan.clip_norm)
            optimizer.step()
            self._project(module)
            self.callback.after_step(module, epoch * steps + step)
            recent += loss.detach()
            seen += 1
            if (step + 1) % _LOOK_EVERY == 0 or step + 1 == steps:
                mean = recent.item() / seen
                if not math.isfinite(mean):
                    raise self._not_finite(mean, epoch, optimizer)
                total, seen = total + recent.item(), 0
                recent.zero_()
                bar.update(epoch * steps + step + 1, loss=mean, **shown)
        return total / steps

    @torch.no_grad()
    def _validate(self, module: nn.Module, device: torch.device) -> tuple[float, float]:
        """Give the task's mean loss and metric on the validation split."""
        module.eval()
        total, outputs, targets = 0.0, [], []
        for inputs, target in self.context.task.loader(Split.VALIDATION, _EVALUATION_BATCH):
            self.context.check_cancelled()
            target = target.to(device)
            output = _first(module(*(each.to(device) for each in each_input(inputs))))
            total += float(self.objective.loss(output, target)) * len(target)
            outputs.append(output.float().cpu().numpy())
            targets.append(target.cpu().numpy())
        if not targets:
            raise StageError(
                f"stage '{self.context.stage_id}': the validation split is empty; give it samples"
            )
        every = np.concatenate(targets)
        return total / len(every), float(self.objective.quality(np.concatenate(outputs), every))

    def _task_loss(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor
    ) -> torch.Tensor:
        return self.objective.loss(_first(module(*inputs)), targets)

    def _project(self, module: nn.Module) -> None:
        for invariant in self.model.invariants:
            invariant.project_(module)

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        plan = self.plan
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise StageError(
                f"stage '{self.context.stage_id}': the model has no parameter that can be trained; "
                "set requires_grad on some, or leave the stage out"
            )
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": plan.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            {"params": self.callback.parameters(), "weight_decay": 0.0, "of_callback": True},
        ]
        groups = [group for group in groups if group["params"]]
        if plan.optimizer is Optimizer.SGD:
            return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum)
        kind = torch.optim.AdamW if plan.optimizer is Optimizer.ADAMW else torch.optim.Adam
        return kind(groups, lr=plan.learning_rate, betas=(plan.momentum, 0.999))

    def _set_rate(self, optimizer: Any, step: int, steps: int) -> None:
        rate, momentum = rate_at(self.plan, step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * self.callback.rate_factor if "of_callback" in group else rate
            if self.plan.optimizer is Optimizer.SGD:
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, group["betas"][1])

    def _train_size(self) -> int:
        data: Sized = self.context.task.splits[Split.TRAIN]  # type: ignore[assignment]  # torch types no __len__
        if len(data) == 0:
            raise StageError(f"stage '{self.context.stage_id}': the training split is empty; give it samples")
        return len(data)

    def _fingerprint(self, module: nn.Module) -> str:
        """Digest what makes this training this one: plan, callback, seed, first weights."""
        digest = hashlib.sha256()
        plan = [(f.name, str(getattr(self.plan, f.name))) for f in fields(TrainingPlan)]
        circumstances = (self.callback.about(), self.context.seed, self.context.device, torch.__version__)
        digest.update(repr((plan, *circumstances)).encode())
        for name, tensor in tensors_of(module):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _not_finite(self, loss: float, epoch: int, optimizer: Any) -> StageError:
        rate = optimizer.param_groups[0]["lr"]
        return StageError(
            f"stage '{self.context.stage_id}': the training loss became {loss} in epoch {epoch + 1} of "
            f"{self.plan.epochs}, at a learning rate of {rate:.3g}; lower learning_rate (now "
            f"{self.plan.learning_rate:g}, try {self.plan.learning_rate / 10:g}) or set clip_norm (try 1.0)"
        )


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, list | tuple) else outputs
