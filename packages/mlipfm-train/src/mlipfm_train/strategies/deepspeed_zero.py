"""DeepSpeed ZeRO (arXiv:1910.02054): optimiser state (1), gradients (2) and parameters (3) are split over the ranks.

DeepSpeed flattens parameters into float32 partitions, so potentials of float64 are refused. ZeRO-3 frees the parameters of a layer after its
forward, and the second derivative of the energy needs them once more; its hooks also demand that all ranks call the same layers equally often,
which ranks with other labels do not. So its hooks of layers are removed, and all parameters are gathered for forward and backward
(decisions/0005). Only this module imports deepspeed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mlipfm_interfaces.errors import RecipeError
from torch import Tensor

from ..optimizers import StepOptimizer
from ..step import Step, StepTerms
from ..views import StepBatch
from .process_group import collect, join, leave
from .single import SingleProcess


class Fragment(NamedTuple):
    """Where a part of a parameter lies in a flat partition of this rank: `flat[there]` is `parameter.flatten()[here]`."""

    name: str
    flat: Tensor
    there: slice
    here: slice


class Zero1(SingleProcess):
    """ZeRO-1: every rank holds the whole model and its share of the optimiser state.

    Args:
        timeout: seconds that a rank waits for another.

    Raises:
        RecipeError: deepspeed is not installed, or this process was not started by torchrun.
    """

    stage = 1

    def __init__(self, clip: float | None = None, device: str = "cpu", timeout: float = 600.0) -> None:
        super().__init__(clip, device)
        self._deepspeed = _import_deepspeed(self._name, self.device.type)
        self._joined = join(self._name, timeout, self.device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        os.environ.setdefault("LOCAL_RANK", str(self.device.index or 0))  # DeepSpeed demands it; torchrun is not the only launcher
        self._deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)

    def check(self, step: Step) -> None:
        others = sorted({str(p.dtype).removeprefix("torch.") for p in step.parameters() if p.dtype != torch.float32})
        if others:
            raise RecipeError(
                f"DeepSpeed keeps parameters in float32, this potential has {', '.join(others)}",
                where=f"strategy {self._name!r}",
                hint="use dtype: float32, or strategy.name=fsdp2, which is exact in float64",
            )

    def setup(self, step: Step, make_optimizer: Callable[[Step], StepOptimizer]) -> None:
        self.check(step)
        self.module = step.to(self.device)
        with _quiet():
            self._engine, self.optimizer, *_ = self._deepspeed.initialize(
                model=step, optimizer=_TorchOptimizer(make_optimizer(step)), config=self._config()
            )
        self.wrapped = self._engine

    def collect(self, value: Any) -> list[Any]:
        return collect(value, self.world_size)

    def close(self) -> None:
        leave(self._joined)

    @property
    def _name(self) -> str:
        return f"deepspeed-zero{self.stage}"

    def _config(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # what it counts as one sample; batches are ours
            "zero_optimization": {"stage": self.stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": self.clip or 0.0,
            "steps_per_print": 2**31,
        }

    def _forward(self, batch: StepBatch) -> StepTerms:
        self.optimizer.refresh_fp32_params()  # type: ignore[attr-defined]  # a weight rule or a training state may have changed the live parameters
        with _quiet():
            return self.wrapped(batch)

    def _backward(self, loss: Tensor) -> None:
        with _quiet():
            self._engine.backward(loss)

    def _gradient_norm(self) -> Tensor:
        norm: Tensor = self.optimizer.scaled_global_norm()  # type: ignore[attr-defined]
        return torch.where(norm < 0, torch.nan, norm)  # -1 stands for one that is not finite

    def _update(self, norm: Tensor) -> None:
        with _quiet():
            self._engine.step()

    def _discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.averaged_gradients.clear()  # type: ignore[attr-defined]

    def _optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        fragments = list(self._fragments())
        state = self.optimizer.state
        keys = sorted(set().union(*self.collect(sorted({key for f in fragments for key in state.get(f.flat, {})}))))
        found: dict[str, dict[str, Tensor]] = {}
        for key in keys:
            for name, parameter in self.module.named_parameters():
                mine = [f for f in fragments if f.name == name]
                if key == "step":
                    found.setdefault(key, {})[name] = self._step_count().clone()
                    continue
                whole = torch.zeros(_numel(parameter), device=self.device)
                for f in mine:
                    whole[f.here] = state[f.flat][key][f.there]
                dist.all_reduce(whole)
                found.setdefault(key, {})[name] = whole.reshape(_shape(parameter)).cpu()
        return found

    def _load_optimizer_state(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        fragments = list(self._fragments())
        for key, values in states.items():
            for flat in self._flats():
                self.optimizer.state.setdefault(flat, {})[key] = (
                    next(iter(values.values())).clone() if key == "step" else torch.zeros_like(flat, requires_grad=False)
                )
            for f in fragments if key != "step" else []:
                self.optimizer.state[f.flat][key][f.there] = values[f.name].flatten()[f.here].to(self.device)

    def _step_count(self) -> Tensor:
        """Steps that the optimiser has done: the same for all partitions."""
        return next(self.optimizer.state[flat]["step"] for flat in self._flats())

    def _flats(self) -> list[Tensor]:
        """Return the flat partitions that this rank updates, one for each group of the optimiser."""
        return list(self.optimizer.single_partition_of_fp32_groups)  # type: ignore[attr-defined]

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.module.named_parameters():
            mapping = getattr(parameter, "_hp_mapping", None)  # None: another rank updates this parameter
            if mapping is not None:
                there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
                flat = self._flats()[mapping.param_group_index]
                yield Fragment(name, flat, _slice(there.start, there.numel), _slice(here.start, here.numel))


class Zero2(Zero1):
    """ZeRO-2: as ZeRO-1, and every rank keeps only its share of the gradients."""

    stage = 2


class Zero3(Zero1):
    """ZeRO-3: as ZeRO-2, and between the steps every rank keeps only its share of the parameters. During a step they are gathered."""

    stage = 3

    def setup(self, step: Step, make_optimizer: Callable[[Step], StepOptimizer]) -> None:
        super().setup(step, make_optimizer)
        self.optimizer.parameter_offload._remove_module_hooks()  # type: ignore[attr-defined]

    def live_parameters(self) -> dict[str, Tensor]:
        return {name: p.ds_tensor.detach() for name, p in self._parameters()}

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = dict(self._parameters())
        whole = {}
        for name, shard in tensors.items():
            parts = [torch.empty_like(shard) for _ in range(self.world_size)]
            dist.all_gather(parts, shard.contiguous())
            whole[name] = torch.cat(parts)[: parameters[name].ds_numel].reshape(parameters[name].ds_shape).to("cpu", copy=True)
        return whole

    def scatter(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = dict(self._parameters())
        shards = {}
        for name, value in tensors.items():
            shard = torch.zeros_like(parameters[name].ds_tensor, requires_grad=False)
            part = value.flatten()[self.rank * len(shard) :][: len(shard)]
            shard[: len(part)] = part.to(self.device)
            shards[name] = shard
        return shards

    def _forward(self, batch: StepBatch) -> StepTerms:
        self._whole = self._deepspeed.zero.GatheredParameters(list(self.module.parameters()))
        with _quiet():
            self._whole.__enter__()
        return super()._forward(batch)

    def _backward(self, loss: Tensor) -> None:
        super()._backward(loss)
        with _quiet():
            self._whole.__exit__(None, None, None)

    def _gradient_norm(self) -> Tensor:
        squares = torch.stack([g.detach().double().square().sum() for grads in self.optimizer.averaged_gradients.values() for g in grads])  # type: ignore[attr-defined]
        total = squares.sum()
        dist.all_reduce(total)
        return total.sqrt().float()

    def _parameters(self) -> list[tuple[str, Any]]:
        """Parameters with what DeepSpeed hangs on them: `ds_tensor` is the shard, `ds_numel` and `ds_shape` are those of the whole."""
        return list(self.module.named_parameters())

    def _flats(self) -> list[Tensor]:
        return list(self.optimizer.fp32_partitioned_groups_flat)  # type: ignore[attr-defined]

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self._parameters():
            group, start, length = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]  # type: ignore[attr-defined]
            first = self.rank * length
            held = min(length, parameter.ds_numel - first)  # the last shards are padded
            if held > 0:
                yield Fragment(name, self._flats()[group], _slice(start, held), _slice(first, held))


class _TorchOptimizer(torch.optim.Optimizer):
    """One of our optimisers as the torch.optim.Optimizer that DeepSpeed asks for; groups and state are shared."""

    def __init__(self, inner: StepOptimizer) -> None:
        groups = [group for group in inner.param_groups if group["params"]]  # DeepSpeed cannot flatten an empty one
        super().__init__(groups, {})
        self._inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._inner.param_groups, self._inner.state = self.param_groups, self.state
        self._inner.step()


def _import_deepspeed(strategy: str, device: str) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device)
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # DeepSpeed's autotuner would import it: seconds of every start
    try:
        with _quiet():
            import deepspeed
    except ImportError as error:
        raise RecipeError(
            f"strategy {strategy!r} needs the package deepspeed: {error}",
            hint="pip install 'mlipfm-train[deepspeed]', or use strategy.name=fsdp2",
        ) from None
    finally:
        if hidden:
            del sys.modules["mlflow"]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of every optimiser that is not its own
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled at the first start
    return deepspeed


@contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed uses names that torch and Python have deprecated; that is its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _shape(parameter: Any) -> Any:
    return getattr(parameter, "ds_shape", parameter.shape)


def _slice(start: int, length: int) -> slice:
    return slice(start, start + length)
