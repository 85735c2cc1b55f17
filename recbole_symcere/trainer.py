"""RecBole's trainer with resumable runs, checkpoints without code, and a learning rate for each part of a model."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from secrets import token_hex
from time import perf_counter
from typing import Any

import numpy as np
import recbole.utils
import torch
from recbole.data.dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer as RecBoleTrainer
from torch import Tensor, nn
from tqdm import tqdm

from recbole_symcere import distributed
from recbole_symcere.checkpoint import (
    FORMAT,
    check_same_data,
    check_same_settings,
    load_checkpoint,
    random_state,
    restore,
    resume_path,
    save_checkpoint,
    set_random_state,
    storable_parameters,
)
from recbole_symcere.config import Config
from recbole_symcere.data.batches import DeviceTrainDataLoader
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.errors import TrainingError
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.progress import training_bar
from recbole_symcere.ranking import RankingTrainer, plain
from recbole_symcere.transfer import upload

SAVE_EVERY = 2.0  # seconds between states to resume from, or an epoch where it takes longer


class _Stopped(Exception):
    """Ends RecBole's loop over epochs when ``callback_fn`` asks for it."""


class Trainer(RankingTrainer):
    """RecBole's trainer, which can also resume a run and train in several processes.

    The hooks of :class:`Recommender` decide the learning rates and which fields of a batch stay on the host. If several
    processes train (see ``distributed``), only the main process writes files.

    The checkpoint ``saved_model_file`` holds the best epoch, as in RecBole. A second file beside it, at
    ``resume_path``, holds a recent epoch with the state of the optimiser, the random generators and early stopping,
    so that a resumed run goes on as if it had not been interrupted. Neither file holds code (see ``checkpoint``).

    Attributes:
        n_steps: the number of steps of a fit on training and validation together, which nothing validates; infinity
            for all steps of RecBole's number of epochs. None for a fit that validation ends.
        seconds: the time spent on training and validation, including the time before the run was resumed.
        curves: for each epoch, the mean over the batches of each term of the loss, by the name of the term; if the
            epoch was validated, also its score as ``valid_score``.
    """

    epochs: int

    def __init__(self, config: Config, model: Recommender) -> None:
        super().__init__(config, model)
        name = f"{config['model']}-{config['dataset']}-{recbole.utils.get_local_time()}-{token_hex(3)}.pth"
        self.saved_model_file = str(
            config["checkpoint_file"] or Path(self.checkpoint_dir) / distributed.from_main(name)
        )
        Path(self.saved_model_file).parent.mkdir(parents=True, exist_ok=True)
        # RecBole's TraditionalTrainer sets epochs to 1 only after eval_step, which would then never be reached.
        self.eval_step: int = min(self.eval_step, self.epochs)
        self.n_steps: float | None = None
        self.seconds = 0.0
        self.curves: list[dict[str, float]] = []
        self._data = source_fingerprint(config)
        self._saves_resume_state, self._saved_at = False, -math.inf
        self._resumed_random: dict[str, Any] | None = None
        self._bar: tqdm | None = None
        self._losses = distributed.losses_of(model)

    @property
    def epochs_run(self) -> int:
        """The number of epochs trained, including those before the run was resumed."""
        return self.start_epoch + len(self.train_loss_dict)

    @property
    def is_refit(self) -> bool:
        """Whether the model is trained on training and validation together."""
        return self.n_steps is not None

    @property
    def best_epoch(self) -> int:
        """The number of the epoch with the best validation score, from 0."""
        newest_validated = self.epochs_run // self.eval_step * self.eval_step - 1
        return newest_validated - self.cur_step * self.eval_step

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """Returns RecBole's optimiser over the model's ``parameter_groups``."""
        optimizer = super()._build_optimizer(**{"params": self.model.parameter_groups()} | kwargs)
        self._rates = [(group["lr"], group.get("warmup_steps", 0)) for group in optimizer.param_groups]
        return optimizer

    def _set_learning_rates(self, epoch: int, step: int) -> None:
        """Sets the learning rate of each parameter group before a step of the run, counted from 0.

        The rates depend only on the epoch and the step, so there is no state that a resumed run must restore. The rate
        of a group with ``warmup_steps`` rises linearly from 0 over these steps.
        """
        factor = self.model.learning_rate_factor(epoch)
        for group, (rate, warmup_steps) in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor * min(1.0, (step + 1) / (warmup_steps + 1))

    def fit(
        self,
        train_data: AbstractDataLoader,
        valid_data: AbstractDataLoader | None = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], bool | None] | None = None,
    ) -> tuple[float, Mapping[str, float]]:
        """Trains as RecBole does, and starts after the newest saved epoch if the run was resumed.

        Args:
            callback_fn: called after every validation with the number of the epoch, from 0, and its score. If it
                returns true, training ends.
        """
        self._saves_resume_state = saved
        if isinstance(train_data, DeviceTrainDataLoader):
            train_data.get_model(self.model)
        if self.n_steps is not None and math.isfinite(self.n_steps):
            self.epochs = math.ceil(self.n_steps / len(train_data))
        if self._resumed_random:
            set_random_state(self._resumed_random, self.device, train_data)
            if self.start_epoch >= self.epochs or self.cur_step > self.stopping_step:
                self.eval_collector.data_collect(train_data)
                return self.best_valid_score, self.best_valid_result
        self._started = perf_counter() - self.seconds

        def stop_if_asked(epoch: int, score: float) -> None:
            if callback_fn is not None and callback_fn(epoch, score):
                raise _Stopped

        with self._progress(show_progress):
            try:
                result = super().fit(train_data, valid_data, verbose, saved, show_progress, stop_if_asked)
            except _Stopped:  # the state of this epoch is not saved, so that a resumed run asks callback_fn again
                self.seconds = perf_counter() - self._started
                return self.best_valid_score, self.best_valid_result
        self._save_resume_state(self.epochs_run - 1, train_data)
        return result

    @contextmanager
    def _progress(self, shown: bool) -> Iterator[None]:
        with training_bar(self.epochs, self.start_epoch) if shown else nullcontext() as self._bar:
            yield
        self._bar = None

    # Training

    def _train_epoch(
        self,
        train_data: AbstractDataLoader,
        epoch_idx: int,
        loss_func: Callable | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        """Trains one epoch as RecBole does, but reads the losses back from the device only once, at the end.

        Returns:
            The sum of the loss over the batches, or of each term if ``loss_func`` returns several.

        Raises:
            TrainingError: there is no batch, or a loss is not finite.
        """
        is_time = distributed.world_size() > 1 or perf_counter() - self._saved_at >= SAVE_EVERY  # clocks may disagree
        if epoch_idx == 0 or (is_time and epoch_idx > self.start_epoch):
            self._save_resume_state(epoch_idx - 1, train_data)
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        steps: list[Tensor] = []  # the terms of the loss of each step, [n_terms]
        batches = tqdm(
            train_data, desc=f"epoch {epoch_idx}", unit="batch", leave=False, delay=5, disable=not show_progress
        )
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        for number, interaction in enumerate(batches):
            step = epoch_idx * len(train_data) + number
            if self.n_steps is not None and step >= self.n_steps:
                break
            self._set_learning_rates(epoch_idx, step)
            losses = self._train_step(interaction, loss_func, scaler)
            steps.append(torch.stack([term.detach().reshape(()) for term in _terms(losses)]))
        if not steps:
            raise TrainingError("the training part has no batch: check that filtering leaves interactions")
        terms = distributed.mean(torch.stack(steps))
        sums = tuple(terms.sum(0).tolist())
        if not np.isfinite(sums).all():
            raise TrainingError(self._explain(epoch_idx, terms, train_data, loss_func))
        means = tuple(term / len(steps) for term in sums)
        self.curves.append(self._loss_names(means if isinstance(losses, tuple) else means[0]))
        if self._bar is not None:
            self._bar.update(epoch_idx + 1 - self._bar.n)
        return sums if isinstance(losses, tuple) else sums[0]

    def _train_step(self, interaction: Interaction, loss_func: Callable, scaler: torch.amp.GradScaler) -> Any:
        """Updates the weights with one batch; reads nothing back, so that the host need not wait for a GPU.

        Args:
            interaction: a batch; the fields that the model names as ``host_fields`` are on the host and stay there.

        Returns:
            The loss, or a tuple of its terms, as ``loss_func`` returns it.
        """
        interaction = Interaction(
            {
                field: values if field in self.model.host_fields else upload(values, self.device)
                for field, values in interaction.interaction.items()
            }
        )
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, enabled=self.enable_amp):
            losses = self._losses(interaction, loss_func)
        scaler.scale(torch.stack([term.reshape(()) for term in _terms(losses)]).sum()).backward()
        if self.clip_grad_norm:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        return losses

    def _explain(self, epoch: int, terms: Tensor, train_data: AbstractDataLoader, loss_func: Callable) -> str:
        """Returns the error message for an epoch in which a loss is not finite.

        Checking every step while training goes well would cost time. Instead, if the run saves its state, training is
        repeated from there up to the faulty step, and the state before this step is saved beside the checkpoint.

        Args:
            terms: [n_steps, n_terms], the terms of the loss of each step.
        """
        step = int((~terms.isfinite().all(1)).nonzero()[0])
        named = self._loss_names(tuple(terms[step].tolist()) if terms.shape[1] > 1 else float(terms[step]))
        faulty = ", ".join(f"{name} is {loss}" for name, loss in named.items() if not np.isfinite(loss))
        told = f"the loss is not finite in epoch {epoch}, step {step} of {len(terms)} (from 0): {faulty}; "
        if self._saves_resume_state:
            state = load_checkpoint(resume_path(self.saved_model_file), self.device)
            restore(self.model, state)
            self.optimizer.load_state_dict(state["optimizer"])
            set_random_state(state["random"], self.device, train_data)
            for earlier in range(state["epoch"] + 1, epoch):
                self._train_again(earlier, len(train_data), train_data, loss_func)
            self._train_again(epoch, step, train_data, loss_func)
            told += self._kept(epoch) + "; "
        return told + f"lower learning_rate, now {self.learning_rate:g}, or set clip_grad_norm"

    def _train_again(self, epoch: int, n_steps: int, train_data: AbstractDataLoader, loss_func: Callable) -> None:
        """Takes the first steps of an epoch again."""
        self.model.train()
        self.optimizer.zero_grad()  # the gradients are still those of the last step of the epoch
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        for number, interaction in zip(range(n_steps), train_data, strict=False):
            self._set_learning_rates(epoch, epoch * len(train_data) + number)
            self._train_step(interaction, loss_func, scaler)

    def _kept(self, epoch: int) -> str:
        """Saves the state before the faulty step of an epoch, and returns what it found as text."""
        kept = Path(self.saved_model_file).with_suffix(".failed.pth")
        if distributed.is_main():
            save_checkpoint(self._state(epoch - 1), kept)
        norms = {
            name: float(weight.grad.norm()) for name, weight in self.model.named_parameters() if weight.grad is not None
        }
        told = f"the state before it is in {kept}"
        if norms:
            largest = max(norms, key=norms.__getitem__)
            told = f"the largest gradient before it was that of {largest}, with the norm {norms[largest]:.3g}; {told}"
        return told

    def _loss_names(self, losses: float | tuple[float, ...]) -> dict[str, float]:
        """Returns losses by name; the names are those of the model, or RecBole's if the model gives none."""
        if not isinstance(losses, tuple):
            return {"train loss": losses}
        names = self.model.loss_names or [f"train_loss{n}" for n in range(1, len(losses) + 1)]
        return dict(zip(names, losses, strict=True))

    def _generate_train_loss_output(
        self, epoch_idx: int, s_time: float, e_time: float, losses: float | tuple[float, ...]
    ) -> str:
        places = self.config["loss_decimal_place"] or 4
        terms = ", ".join(f"{name}: {loss:.{places}f}" for name, loss in self._loss_names(losses).items())
        return f"epoch {epoch_idx} training [time: {e_time - s_time:.2f}s, {terms}]"

    def _add_train_loss_to_tensorboard(
        self, epoch_idx: int, losses: float | tuple[float, ...], tag: str = "Loss/Train"
    ) -> None:
        for name, loss in self._loss_names(losses).items():
            self.tensorboard.add_scalar(f"{tag}/{name}", loss, epoch_idx)

    def _valid_epoch(self, valid_data: AbstractDataLoader, show_progress: bool = False) -> tuple[float, Mapping]:
        score, result = super()._valid_epoch(valid_data, show_progress=False)
        self.curves[-1]["valid_score"] = float(score)
        validated = [epoch["valid_score"] for epoch in self.curves if "valid_score" in epoch]
        score = float(np.mean(validated[-self.config["valid_window"] :]))
        if self._bar is not None:
            best = (max if self.valid_metric_bigger else min)(score, self.best_valid_score)
            self._bar.set_postfix_str(f"{self.config['valid_metric']} {score:.4f}, best {best:.4f}")
        return score, result

    def evaluate(
        self,
        eval_data: AbstractDataLoader,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Mapping[str, float]:
        """Ranks as RecBole does; ``load_best_model`` first loads ``model_file``, or else the best epoch."""
        if load_best_model:
            restore(self.model, load_checkpoint(model_file or self.saved_model_file, self.device))
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    # Checkpoints

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Saves the model and all that is needed to rebuild it; a LoRA adapter is also saved beside the checkpoint."""
        if self.is_refit and epoch + 1 < self.epochs:  # no epoch but the last one is ranked
            return
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        if distributed.is_main():
            save_checkpoint(self._state(epoch), path)
            self.model.save_adapter(path.with_suffix(".adapter"))
        distributed.wait_for_all()
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": self.config.settings,
            "data": self._data,
            "refit": self.is_refit,
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": storable_parameters(self.model),
            "optimizer": self.optimizer.state_dict(),
        }

    def _save_resume_state(self, epoch: int, train_data: AbstractDataLoader) -> None:
        if not self._saves_resume_state:
            return
        self._saved_at = perf_counter()
        self.seconds = self._saved_at - self._started
        further = {
            "best_valid_result": self.best_valid_result and plain(self.best_valid_result),
            "random": random_state(self.device, train_data),
            "seconds": self.seconds,
            "curves": self.curves,
        }
        if distributed.is_main():
            save_checkpoint(self._state(epoch) | further, resume_path(self.saved_model_file))
        distributed.wait_for_all()

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Loads the newest epoch of the run whose checkpoint is ``resume_file``, so that ``fit`` continues the run.

        Raises:
            CheckpointError: the state can't be read, or belongs to a run with other settings or other data.
        """
        self.saved_model_file = str(resume_file)
        state = load_checkpoint(resume_path(resume_file), self.device)
        if state["best_valid_result"]:
            load_checkpoint(resume_file)  # raises now if the best epoch, which the end of the run needs, is lost
        check_same_settings(resume_file, state["config"], self.config.settings)
        check_same_data(resume_file, state, self.config)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.seconds, self.curves = state["seconds"], state["curves"]
        restore(self.model, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self._resumed_random = state["random"]
        self.logger.info(f"Resuming {resume_file} after epoch {state['epoch']}")


def get_trainer(model_type: Any, model: str) -> type[Trainer]:
    """Returns the trainer class of a model: ``Trainer``, on top of RecBole's special class for it if there is one."""
    base = recbole.utils.get_trainer(model_type, model)
    return Trainer if base is RecBoleTrainer else type(base.__name__, (Trainer, base), {})


def _terms(losses: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return losses if isinstance(losses, tuple) else (losses,)
