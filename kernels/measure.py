"""Timing of contenders in turn, and peak memory: on the CPU in fresh processes from the kernel's own records, on CUDA from PyTorch's."""
import ctypes
import gc
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Contender:
    "A function of x that is timed, forward alone or with the gradients of x and of its parameters"
    name: str
    function: Callable[[Tensor], Tensor]
    x: Tensor                           # the input; its gradient is always among those computed
    parameters: list[Tensor] = field(default_factory=list)
    gradient: Tensor | None = None      # incoming gradient, (B, O, ...) in the default layout; None: forward only
    fixed_shape: bool = False           # compiled for this shape: not to be called with another
    note: str = ""
    first: dict[str, float] = field(default_factory=dict)  # seconds of the first calls; empty: not called yet, or failed (see note)

    def forward(self) -> Tensor:
        "One forward pass that keeps nothing for a backward pass"
        with torch.no_grad(): return self.function(self.x)

    def both(self) -> tuple[Tensor, ...]:
        "One forward and one backward pass"
        return torch.autograd.grad(self.function(self.x), [self.x, *self.parameters], self.gradient)

    def prepare(self) -> None:
        "Ready for timing: x asks for its gradient, the incoming gradient has the layout of the output, as it has in a network"
        self.x = self.x.detach().requires_grad_(self.gradient is not None)
        if self.gradient is None:
            self.forward()
            return
        self.gradient = torch.empty_like(self.forward()).copy_(self.gradient)

    @property
    def directions(self) -> dict[str, Callable]:
        "What is timed, by name"
        return {"fwd": self.forward} | ({"fwd+bwd": self.both} if self.gradient is not None else {})


@dataclass
class Timing:
    "Seconds of one direction of one contender"
    first: float = float("nan")
    seconds: list[float] = field(default_factory=list)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        "First quartile, median, third quartile"
        if len(self.seconds) < 2: return (self.seconds or [float("nan")])[0:1]*3
        return tuple(statistics.quantiles(self.seconds, n=4, method="inclusive"))


def stopwatch(device: str) -> Callable[[Callable], float]:
    "A function that measures the seconds of one call, on the device's own clock"
    def on_cpu(call: Callable) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def on_cuda(call: Callable) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record(); call(); end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)/1e3
    return on_cuda if device == "cuda" else on_cpu


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    "TimeoutError after so many seconds, where signals allow it"
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    def stop(*_): raise TimeoutError(f"gave up after {seconds:g} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def explain(error: BaseException) -> str:
    "An exception in one short line for the tables"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}".replace("|", "/")


def warm_up(contender: Contender, device: str, limit: float = 90.) -> None:
    "First calls, timed apart; where they fail or take too long `first` stays empty and `note` says why"
    if contender.first or contender.note: return
    watch = stopwatch(device)
    try:
        with time_limit(limit):
            first = {"fwd": watch(contender.prepare)}  # its forward call is the very first one
            if contender.gradient is not None: first["fwd+bwd"] = watch(contender.both)
        contender.first = first
    except Exception as error: contender.note = explain(error)


SLOW = 1.  # seconds: what takes longer is timed a few times only


def interleave(contenders: list[Contender], device: str, runs: int, seconds: float) -> dict[tuple[str, str], Timing]:
    """Time all contenders in turn, A B C A B C ...; at least `runs` rounds, more of them if `seconds` allow, three times as many at most.

    A contender whose runs would take more than `seconds` on its own takes part in fewer rounds, spread evenly, but never in fewer than
    three (two if one takes longer than `SLOW`): the number of runs is in the table.
    """
    watch, timings, calls, cost = stopwatch(device), {}, {}, {}
    for contender in contenders:
        warm_up(contender, device)
        for direction, first in contender.first.items():
            key = contender.name, direction
            timings[key], calls[key] = Timing(first), contender.directions[direction]
            cost[key] = estimate(calls[key], first, watch)
    if not cost: return {}
    rounds = max(runs, min(3*runs, int(seconds/sum(min(c, seconds/runs) for c in cost.values()))))
    share = {key: max(min(2 if c > SLOW else 3, runs), min(rounds, int(seconds/c))) for key, c in cost.items()}
    gc.collect(); gc.freeze(); gc.disable()  # frozen: what there is now is not looked at in every round
    try:
        for turn in range(rounds):
            for key, call in calls.items():
                takes_part = (turn + 1)*share[key]//rounds > turn*share[key]//rounds
                if takes_part: timings[key].seconds.append(watch(call))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return timings


def estimate(call: Callable, first: float, watch: Callable[[Callable], float]) -> float:
    "About how long a call takes: a second call, not counted, unless already the first one says that it is slow (and not that it compiled)"
    second = watch(call) if first < 3*SLOW else first
    return max(second, 1e-6)


# ---- memory


def keep_freed_memory() -> bool:
    """Make glibc keep what is freed, as PyTorch's CUDA allocator does; False where there is no such C library.

    As it comes, glibc asks the system anew for blocks above 32 MB, unless it happens to have a large enough hole: on large images every
    contender then pays for page faults or not, depending on what ran before, and several times as much as for its arithmetic.
    """
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(-4, 0) and libc.mallopt(-1, -1))  # M_MMAP_MAX: no block by mmap; M_TRIM_THRESHOLD: never shrink
    except (OSError, AttributeError): return False


def resident(name: str) -> int | None:
    "VmRSS or VmHWM of this process in bytes, from the kernel; None where there is no /proc"
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1])*1024 for line in status if line.startswith(name + ":"))
    except (OSError, StopIteration): return None


def reset_peak() -> bool:
    "Set VmHWM back to the present resident set; False where that is not possible"
    try:
        with open("/proc/self/clear_refs", "w") as file: file.write("5")
        return True
    except OSError: return False


def give_freed_memory_back() -> None:
    "Make glibc return every large block at once: memory kept by the allocator would hide what a second call needs"
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD, which also stops its silent growth
        libc.malloc_trim(0)
    except (OSError, AttributeError): pass  # another C library: its own habits


def _peak_on_cpu(call: Callable) -> float | None:
    "Increase of the peak resident set during one call, in bytes"
    gc.collect()
    give_freed_memory_back()
    before, can_reset = resident("VmRSS"), reset_peak()
    if before is None:  # no /proc: the peak since the process began, less what is resident now; counts compilation, too
        import psutil
        before = psutil.Process().memory_info().rss
    call()
    if can_reset: return max(resident("VmHWM") - before, 0)
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit - before
    return peak if peak > 0 else None


def _in_child(connection, build: Callable[..., Contender], arguments: tuple) -> None:
    "What the fresh process does: build the contender, warm it up on the same size, measure one more call"
    try:
        give_freed_memory_back()
        contender = build(*arguments)
        contender.prepare()
        contender.both()
        connection.send(_peak_on_cpu(contender.both))
    except BaseException as error:
        connection.send(explain(error))


def peak_memory(build: Callable[..., Contender], arguments: tuple, device: str, seconds: float = 60.) -> float | str | None:
    "Bytes that one forward+backward needs beyond inputs, parameters and incoming gradient; a text where it failed, None: not measured"
    if device == "cuda": return _peak_on_cuda(build, arguments)
    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":  # a server that has imported everything and run nothing, copied for each contender
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, (HERE, *os.environ.get("PYTHONPATH", "").split(os.pathsep)))))
        context.set_forkserver_preload(["contenders"])
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(there, build, arguments))
    child.start()
    there.close()
    try: return here.recv() if here.poll(seconds) else f"gave up after {seconds:g} s"
    except EOFError: return "the process died, most likely for want of memory"
    finally:
        if child.is_alive() and not here.closed: child.join(2)
        if child.is_alive(): child.kill()
        child.join()


def _peak_on_cuda(build: Callable[..., Contender], arguments: tuple) -> float | str:
    "The same from the allocator's own count"
    try:
        contender = build(*arguments)
        contender.prepare()
        for _ in range(2): contender.both()
        gc.collect(); torch.cuda.empty_cache(); torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contender.both()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    except RuntimeError as error: return explain(error)


# ---- the machine


def machine_rates(device: str, quick: bool) -> dict[str, float]:
    "Copy bandwidth (bytes/s read plus written) and rate of a float32 matrix product (flop/s): best of seven"
    watch, side = stopwatch(device), 256 if quick else 2048 if device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    source = torch.randn((1 << 20) if quick else (1 << 26), device=device)
    target = torch.empty_like(source)
    best = {}
    for name, amount, call in [("bandwidth", 2*source.nbytes, lambda: target.copy_(source)), ("flops", 2*side**3, lambda: a @ b)]:
        call(); call()
        best[name] = amount/min(watch(call) for _ in range(7))
    return best
