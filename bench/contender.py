"""Contenders, compiled apart from their repetitions, racing in a process of their own.

A case has its own process, so that peak memory is its own, and no case leaves
threads, fragmented memory or compiled programs to the next.
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
from bench.machine import num_cores, peak_bytes, reset_peak
from bench.options import Options
from bench.record import Case, Row
from eqids.config import UserError, require

Chosen = TypeVar("Chosen", bound=Options)
Which = TypeVar("Which")
Measured = tuple[list[Row], list[str]]
"""Rows, and sentences that a reader must know."""


@dataclass(frozen=True)
class Program:
    """A compiled function, how long compiling took, and its temporaries in bytes."""

    call: Callable[..., Any]
    compile_seconds: float
    temp_bytes: int | None


def compiled(
    function: Callable[..., Any], *args: Any, donate: Sequence[int] = ()
) -> Program:
    """Compiles a function for arguments like these.

    Args:
        function: of arrays and trees of arrays.
        args: examples of what it is called with.
        donate: numbers of the arguments whose memory it may take over.
    """
    return lowered(jax.jit(function, donate_argnums=tuple(donate)), *args)


def lowered(function: Any, *args: Any) -> Program:
    """Compiles what `jax.jit` made, for arguments like these."""
    start = time.perf_counter()
    program = function.lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return Program(program, seconds, memory and memory.temp_size_in_bytes)


@dataclass
class Contender:
    """One way to do the work.

    Attributes:
        name: what the table calls it.
        work: what it does.
        run: does it, and returns when it is done.
        program: what `run` calls, if it is compiled.
        facts: for its row.
        device: that it runs on, by default jax's.
    """

    name: str
    work: str
    run: Callable[[], None]
    program: Program | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    peak_bytes: int | None = None

    def __call__(self) -> None:
        """Runs, and watches the peak memory of the first time."""
        if self.peak_bytes is not None:
            self.run()
            return
        reset_peak()
        self.run()
        self.peak_bytes = peak_bytes()

    @property
    def label(self) -> str:
        """What tells it from the others of its case."""
        return f"{self.name}, {self.work}"


def race(
    case: Case,
    units: int,
    contenders: Sequence[Contender],
    options: Options,
    *,
    settle: bool = False,
) -> list[Row]:
    """Times contenders in turns, see `bench.clock.alternate`.

    Args:
        case: what they do it on.
        units: targets or queries in one repetition.
        contenders: who.
        options: how often.
        settle: begin every turn with a run that does not count.
    """
    # On one core the CPU's time tells the same as the wall's, and other processes
    # on that core disturb it less.
    one = num_cores() == 1
    on_cpu = jax.default_backend() == "cpu"
    named = {contender.label: contender for contender in contenders}
    timings = alternate(
        named, options.most_repetitions, options.most_seconds, settle=settle
    )
    return [
        Row(
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
        measure_case: a module's function.
        options: its first argument.
        cases: its second, one at a time.

    Returns:
        All rows, each with the name of its case, and all notes.

    Raises:
        UserError: a process was killed, as systems do for want of memory.
    """
    rows, notes = list[Row](), list[str]()
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
    words = there, measure_case, options, case
    child = fresh.Process(target=_answer, args=words, daemon=True)
    # Ctrl-C reaches both; the parent answers it, and the child's stack tells nobody
    # anything.
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
            "for want of memory; wanted more memory, or --quick",
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
