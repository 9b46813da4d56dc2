"""The frozen step beside the same model in transformers and torch, in turns."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator

from bench.clock import Spread, alternate
from bench.gpu.card import device_bytes
from bench.gpu.device_step import DeviceStep, job_of, predicted
from bench.gpu.gpu_cases import PeerCase
from bench.gpu.part_context import GpuRow, LeftOutError, PartContext
from bench.record import OURS
from bench.train_torch import TorchRecommender, TorchStep, has_transformers, tensors
from bench.windows import one_in_a_row, random_windows
from sharding.compiled.machines import GIB

EAGER, COMPILED = "transformers + torch", "transformers + torch, compiled"
_REPETITIONS, _SECONDS = 10, 12.0


def measure(case: PeerCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields a row for ours and for the peer, op by op and compiled.

    Rows are full: the peer packs nothing. It has a full softmax, ours one cluster.

    Raises:
        LeftOutError: torch has no GPU or is not installed, or the memory is too small.
    """
    device = _torch_device(context)
    step = predicted(job_of(case.step, context.platform))
    need, limit = 3 * step.memory.peak, device_bytes()
    if need > limit:
        raise LeftOutError(
            f"three such steps need about {need / GIB:.1f} GiB, and the device has "
            f"{limit / GIB:.1f}"
        )
    one, model = case.step, step.job.model
    slots = model.num_clusters * model.cluster_size
    windows = random_windows(slots, one.batch_size, one.seq_len, context.seed)
    batches = one_in_a_row(windows, one.batch_size)
    ours = DeviceStep(step, batches, context.seed)
    runs: dict[str, Callable[[], None]] = {OURS: ours.run}
    config, peer_batches = step.job.step, tensors(batches, device=device)
    for name, compiler in ((EAGER, None), (COMPILED, case.compiler)):
        peer = TorchRecommender(model, slots, one.train, config.dtype, device)
        runs[name] = _Turn(
            TorchStep(peer, config.recipe, config.grad_clip, compiler), peer_batches
        )
    # torch compiles in its first step, which must not count as the warm-up's time.
    for run in runs.values():
        run()
    timings = alternate(runs, _REPETITIONS, context.budget(0.2, _SECONDS), settle=True)
    for name, timing in timings.items():
        spread = Spread.of(timing.wall)
        numbers = {
            "tokens/s": ours.amount.positions / spread.median,
            "ms": 1e3 * spread.median,
            "ms, low": 1e3 * spread.low,
            "ms, high": 1e3 * spread.high,
            "times ours": spread.median / Spread.of(timings[OURS].wall).median,
        }
        yield GpuRow(f"{name}, {case}", numbers)


class _Turn:
    """Steps of the peer on batches in turn."""

    def __init__(self, step: TorchStep, batches: list) -> None:  # type: ignore[type-arg]
        self._step, self._batches, self._turn = step, batches, 0

    def __call__(self) -> None:
        self._step(self._batches[self._turn % len(self._batches)])
        self._turn += 1


def _torch_device(context: PartContext) -> str:
    """The device's name in torch."""
    if not has_transformers():
        raise LeftOutError("torch or transformers is not installed")
    if not context.on_gpu:
        return "cpu"
    if not importlib.import_module("torch").cuda.is_available():
        raise LeftOutError("this torch has no GPU")
    return "cuda"
