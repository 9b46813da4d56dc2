"""Contenders that are compiled before they are timed, and processes that time them.

Each case has its own process. So its peak memory is its own, and no threads, fragmented
memory or compiled programs of another case disturb it.
"""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from bench.clock import alternate
from bench.machine import peak_bytes, reset_peak
from bench.options import Options
from bench.record import CaseNumbers, ResultRow
from eqids.config import UserError, require
from eqids.io.cores import num_cores

Chosen = TypeVar("Chosen", bound=Options)
Which = TypeVar("Which")
Measured = tuple[list[ResultRow], list[str]]
"""Rows, and sentences that a reader must know."""


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled function, how long compiling took, and its temporaries in bytes."""

    call: Callable[..., Any]
    compile_seconds: float
    temp_bytes: int | None


def compiled(
    function: Callable[..., Any], *args: Any, donate: Sequence[int] = ()
) -> CompiledProgram:
    """Compiles a function for arguments like these.

    Args:
        function: of arrays and trees of arrays.
        args: examples of its arguments.
        donate: numbers of the arguments whose memory it may reuse.
    """
    return lowered(jax.jit(function, donate_argnums=tuple(donate)), *args)


def lowered(function: Any, *args: Any) -> CompiledProgram:
    """Compiles a function that `jax.jit` made, for arguments like these."""
    start = time.perf_counter()
    program = function.lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return CompiledProgram(program, seconds, memory and memory.temp_size_in_bytes)


@dataclass
class Contender:
    """One way to do the work.

    Attributes:
        name: its name in tables.
        work: what it does.
        run: does the work, and returns when it is done.
        program: the compiled function that `run` calls, if there is one.
        facts: numbers for its row.
        device: the kind of device that it runs on, by default jax's.
        peak_bytes: peak memory of its first run, once it has run.
    """

    name: str
    work: str
    run: Callable[[], None]
    program: CompiledProgram | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    peak_bytes: int | None = None

    def __call__(self) -> None:
        """Runs, and records the peak memory of the first run."""
        if self.peak_bytes is not None:
            self.run()
            return
        reset_peak()
        self.run()
        self.peak_bytes = peak_bytes()

    @property
    def label(self) -> str:
        """Its name and work, which no other contender of the case has."""
        return f"{self.name}, {self.work}"


def race(
    case: CaseNumbers,
    units: int,
    contenders: Sequence[Contender],
    options: Options,
    *,
    settle: bool = False,
) -> list[ResultRow]:
    """Times contenders in turns, see `bench.clock.alternate`.

    Args:
        case: the sizes of the work.
        units: targets or queries in one repetition.
        contenders: the contenders.
        options: the number of repetitions, and the budget.
        settle: begin every turn with a run that does not count.
    """
    # On one core CPU time equals wall time, and other processes disturb it less.
    one = num_cores() == 1
    on_cpu = jax.default_backend() == "cpu"
    named = {contender.label: contender for contender in contenders}
    timings = alternate(
        named, options.most_repetitions, options.most_seconds, settle=settle
    )
    return [
        ResultRow(
            case=case,
            name=contender.name,
            work=contender.work,
            units=units,
            timing=timings[contender.label],
            clock="cpu" if one and on_cpu else "wall",
            device=contender.device or jax.devices()[0].device_kind,
            compile_seconds=getattr(contender.program, "compile_seconds", None),
            temp_bytes=getattr(contender.program, "temp_bytes", None),
            peak_bytes=contender.peak_bytes,
            facts=contender.facts,
        )
        for contender in contenders
    ]


def measure_each(
    measure_case: Callable[[Chosen, Which], Measured],
    options: Chosen,
    cases: Sequence[Which],
) -> Measured:
    """Measures every case in a new process, on the same cores, one after the other.

    Args:
        measure_case: a function of a module.
        options: its first argument.
        cases: its second arguments, one for each process.

    Returns:
        All rows, each with the name of its case, and all notes.

    Raises:
        UserError: a process was killed, as systems do when memory runs out.
    """
    rows, notes = list[ResultRow](), list[str]()
    with tqdm(cases, unit="case", disable=None) as bar:
        for case in bar:
            bar.set_postfix_str(str(case))
            if bar.disable:
                print(f"measuring {case}", file=sys.stderr, flush=True)
            found, more = _in_child(measure_case, options, case)
            rows += [replace(row, process=str(case)) for row in found]
            notes += more
    return rows, notes


def _in_child(
    measure_case: Callable[[Chosen, Which], Measured], options: Chosen, case: Which
) -> Measured:
    fresh = multiprocessing.get_context("spawn")
    here, there = fresh.Pipe(duplex=False)
    args = there, measure_case, options, case
    child = fresh.Process(target=_answer, args=args, daemon=True)
    # Ctrl-C reaches both processes. The parent handles it, and the child ignores it,
    # because its traceback would help nobody.
    answering = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child.start()
    signal.signal(signal.SIGINT, answering)
    there.close()
    try:
        answer = here.recv()
    except KeyboardInterrupt:
        child.terminate()
        child.join()
        raise
    except EOFError:
        child.join()
        code = child.exitcode or 0
        require(
            code >= 0,
            f"the process that measured {case} was killed by signal {-code}, perhaps "
            "because memory ran out; wanted more memory, or --quick",
        )
        raise
    child.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(
    where: Connection,
    measure_case: Callable[[Chosen, Which], Measured],
    options: Chosen,
    case: Which,
) -> None:
    try:
        where.send(measure_case(options, case))
    except UserError as error:
        where.send(error)
