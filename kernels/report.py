"""From rows of measurements to a table of numbers, a page to read, the bars with met or not met, and a picture."""
import csv
import datetime
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

import contenders as c

NOT_MEASURED = "not measured"


@dataclass
class Row:
    "One contender in one direction: a line of the csv"
    part: str
    case: str
    tree: str   # of a scan: its direction
    size: str
    contender: str
    direction: str
    q25_s: float = math.nan
    median_s: float = math.nan
    q75_s: float = math.nan
    runs: int = 0
    first_call_s: float = math.nan
    error: float = math.nan           # of the output, max norm, against float64
    gradient_error: float = math.nan  # of the gradients, relative 2-norm, against float64
    peak_mb: float = math.nan         # one forward and backward pass beyond inputs and parameters
    ratio_to_floor: float = math.nan
    note: str = ""

    @property
    def key(self) -> tuple[str, ...]: return self.part, self.case, self.tree, self.size, self.contender, self.direction


@dataclass
class Results:
    "All rows of a run and what they were measured on"
    machine: dict[str, str]
    quick: bool = False
    runs: int = 9
    rates: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    parts: tuple[str, ...] = ()  # those that were completed
    seconds: float = 0.

    def __post_init__(self): self.by_key: dict[tuple[str, ...], Row] = {}

    @property
    def rows(self) -> list[Row]: return list(self.by_key.values())

    def add(self, row: Row) -> None:
        "File a row, unless it says nothing"
        if row.runs or row.note: self.by_key[row.key] = row

    def add_peak(self, case: str, tree: str, size: str, contender: str, peak: float | str | None) -> None:
        "File a peak of memory with the row of the same contender"
        key = ("layers", case, tree, size, contender, "fwd+bwd")
        row = self.by_key.setdefault(key, Row(*key))
        if isinstance(peak, str): row.note = "; ".join(filter(None, (row.note, f"memory: {peak}")))
        elif peak is not None: row.peak_mb = peak/1e6

    def get(self, part: str, case: str, tree: str, size: str, contender: str, direction: str) -> Row | None:
        "The row, if it was timed"
        row = self.by_key.get((part, case, tree, size, contender, direction))
        return row if row and row.runs else None

    def best(self, part: str, case: str, tree: str, size: str, names: Iterable[str], direction: str = "fwd+bwd") -> Row | None:
        "The fastest of several contenders"
        rows = [row for name in names if (row := self.get(part, case, tree, size, name, direction))]
        return min(rows, key=lambda row: row.median_s, default=None)

    def peak(self, case: str, tree: str, size: str, names: Iterable[str]) -> float:
        "Peak memory in MB of the first of these contenders that has one"
        rows = (self.by_key.get(("layers", case, tree, size, name, "fwd+bwd")) for name in names)
        return next((row.peak_mb for row in rows if row and row.peak_mb == row.peak_mb), math.nan)

    def groups(self, part: str) -> list[tuple[str, str, str]]:
        "The (case, tree, size) of a part, in the order of the run"
        return list(dict.fromkeys((row.case, row.tree, row.size) for row in self.rows if row.part == part))

    def fill_ratios(self) -> None:
        "× floor: median over the median of the faster memory format of the 1×1 convolution"
        for row in self.rows:
            floor = self.best(row.part, row.case, row.tree, row.size, c.FLOORS, row.direction)
            if floor: row.ratio_to_floor = row.median_s/floor.median_s

    def summary(self, part: str, case: str, tree: str, size: str) -> str:
        "Forward and backward in a few words, for the lines of progress"
        floor, layer, eager = (self.best(part, case, tree, size, names) for names in (c.FLOORS, c.LAYERS, c.EAGER))
        if not floor or not layer: return NOT_MEASURED
        text = f"floor {seconds(floor)}, layer {seconds(layer)} = {layer.median_s/floor.median_s:.2f} × floor"
        return text + (f", {eager.median_s/layer.median_s:.1f} × faster than the composition" if eager else "")

    def against_first(self, part: str, case: str, tree: str, size: str) -> str:
        "The first contender of a group and the others as multiples of it"
        rows = [row for row in self.rows if row.key[:4] == (part, case, tree, size) and row.direction == "fwd+bwd"]
        texts = [f"{row.contender} {seconds(row) if row.runs else row.note}" for row in rows]
        return ", ".join(texts) or NOT_MEASURED


# ---- the machine


def describe_machine(device: str) -> dict[str, str]:
    "What a reader needs to compare with another machine"
    import numba
    import triton

    import fastsums
    from fastsums import scan as _  # noqa: F401  (the module of that name is shadowed by the function)
    import sys
    module = sys.modules["fastsums.scan"]
    facts = {"date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"), "commit": commit(), "processor": processor(),
             "threads": f"torch {torch.get_num_threads()}, numba {numba.config.NUMBA_NUM_THREADS}, cores {os.cpu_count()}",
             "load before": ", ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else NOT_MEASURED,
             "versions": f"fastsums {fastsums.__version__}, torch {torch.__version__}, numba {numba.__version__}, triton {triton.__version__}, "
                         f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
             "backends of fastsums": ", ".join(getattr(module, "BACKENDS", ())) or "unknown"}
    if device == "cuda":
        facts["device"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, float32 without TF32 for everyone"
    return facts


def processor() -> str:
    "The name of the CPU"
    try:
        with open("/proc/cpuinfo") as file: return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration): return platform.processor() or "unknown"


def commit() -> str:
    "The commit measured, and whether there was more than it"
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    try: return git("rev-parse", "--short=10", "HEAD") + (", with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError): return "unknown"


# ---- numbers as text


def seconds(row: Row | float | None) -> str:
    "Seconds in a readable unit"
    value = row.median_s if isinstance(row, Row) else row
    if value is None or value != value: return "–"
    for unit, factor in (("s", 1.), ("ms", 1e3)):
        if value*factor >= 1: return f"{value*factor:.3g} {unit}"
    return f"{value*1e6:.3g} µs"


def spread(row: Row | None) -> str:
    "Median and quartiles"
    if row is None: return "–"
    few = f", {row.runs} runs" if row.runs < 9 else ""
    return f"{seconds(row)} ({seconds(row.q25_s)} to {seconds(row.q75_s)}{few})"


def number(value: float, form: str = ".2f") -> str:
    "A number, or a dash where there is none"
    return "–" if value != value else format(value, form)


def quotient(a: Row | None, b: Row | None) -> float:
    "How many times longer `a` takes than `b`"
    return a.median_s/b.median_s if a and b else math.nan


def geometric_mean(values: list[float]) -> float:
    "The geometric mean; none if there is nothing or a gap"
    return math.exp(statistics.fmean(map(math.log, values))) if values and all(v == v for v in values) else math.nan


def table(head: list[str], lines: list[list[str]], right: int) -> str:
    "A markdown table whose columns from `right` on are numbers"
    rule = ["---"]*right + ["---:"]*(len(head) - right)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


# ---- the bars


@dataclass(frozen=True)
class Bar:
    "A claim that the numbers decide"
    claim: str
    measured: float
    bound: float
    at_most: bool = True
    unit: str = ""

    @property
    def met(self) -> bool | None:
        "None: not measured"
        if self.measured != self.measured: return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    @property
    def cells(self) -> list[str]:
        verdict = {True: "met", False: "**not met**", None: NOT_MEASURED}[self.met]
        digits = ".3g" if self.measured >= 10 or self.measured < 0.1 else ".2f"
        return [self.claim, f"{'at most' if self.at_most else 'at least'} {self.bound:.3g}{self.unit}",
                "–" if self.met is None else format(self.measured, digits) + self.unit, verdict]


def main_sizes(results: Results) -> list[str]:
    "The sizes at which the four main cases were to be measured"
    return [str(size) for size in (c.QUICK_SIZES if results.quick else c.SIZES)]


def side(size: str) -> int:
    "The last axis of a size as it is written in the table"
    return int(size.split("×")[-1])


def floor_bars(results: Results) -> list[Bar]:
    "How far above the floor"
    groups = [(case, "chain", size) for case in c.MAIN_CASES for size in main_sizes(results)]
    groups += [(case, "cherry", main_sizes(results)[0]) for case in c.MAIN_CASES]
    groups += [(case, "chain up and down", size) for case in ("real", "maxplus") for size in main_sizes(results)]
    return [Bar(f"{case}, {tree}, {size}: forward+backward over the floor",
                quotient(results.best("layers", case, tree, size, c.LAYERS), results.best("layers", case, tree, size, c.FLOORS)),
                1.5 if side(size) < 256 else 1.8, unit=" ×") for case, tree, size in groups]


def speedup(results: Results, case: str, tree: str, size: str) -> float:
    "How many times faster the layer is than the fastest eager composition, forward and backward"
    return quotient(results.best("layers", case, tree, size, c.EAGER), results.best("layers", case, tree, size, c.LAYERS))


def memory_share(results: Results, case: str, tree: str, size: str) -> float:
    "Peak memory of the layer, in the memory format in which it is faster, over that of the composition that is faster"
    layer, eager = (fastest_first(results, case, tree, size, names) for names in (c.LAYERS, c.EAGER))
    return results.peak(case, tree, size, layer)/results.peak(case, tree, size, eager)


def fastest_first(results: Results, case: str, tree: str, size: str, names: tuple[str, ...]) -> tuple[str, ...]:
    "The fastest of these contenders alone; all of them if they were not timed"
    best = results.best("layers", case, tree, size, names)
    return (best.contender,) if best else names


def composition_bars(results: Results) -> list[Bar]:
    "How much better than what one writes with PyTorch"
    bars = []
    for case in c.MAIN_CASES:
        sizes, at_least = main_sizes(results), 4.5 if "maxplus" in case else 3.
        speedups, shares = ([f(results, case, "chain", size) for size in sizes] for f in (speedup, memory_share))
        worst = math.nan if any(s != s for s in shares) else max(shares)
        bars += [Bar(f"{case}, chain, geometric mean over sizes: faster than the eager composition", geometric_mean(speedups), at_least, False, " ×"),
                 Bar(f"{case}, chain, worst size: peak memory over that of the composition", worst, 1/3)]
    for case in ("real", "maxplus"):
        shares = [memory_share(results, case, "chain up and down", size) for size in main_sizes(results)]
        bars.append(Bar(f"{case}, chain up and down, worst size: peak memory over that of the composition", math.nan if any(s != s for s in shares) else max(shares), 1/3))
    return bars


def special_bars(results: Results) -> list[Bar]:
    "Contraction in the semiring, many trees, growth"
    size, case = main_sizes(results)[0], "maxplus, semiring-linear"
    b, _, rest = size.partition("×(")
    outputs = int(rest.split("→")[1].split(")")[0])
    output_mb = int(b)*outputs*math.prod(map(int, size.split(")×")[1].split("×")))*4/1e6
    peak = results.peak(case, "chain", size, fastest_first(results, case, "chain", size, c.LAYERS))
    bars = [Bar(f"{case}, {size}: faster than the materialising composition", speedup(results, case, "chain", size), 20, False, " ×"),
            Bar(f"{case}, {size}: peak memory over the output's own {output_mb:.3g} MB", peak/output_mb, 10, unit=" ×")]
    for case in ("real", "maxplus"):
        forest, shared = (results.best("layers", case, c.FOREST, size, names) for names in (c.LAYERS, (c.LAYER_SHARED,)))
        bars.append(Bar(f"{case}, {size}: {c.FOREST} trees over one shared tree", quotient(forest, shared), 1.5, unit=" ×"))
    for case in ("real", "maxplus"):
        for what, smallest in (("all sizes", 0), ("from 256² on", 256)):
            bars.append(Bar(f"{case}: slope of time against pixels, {what}", slope(results, case, smallest), 1.05))
    return bars


def slope(results: Results, case: str, smallest: int = 0, names: tuple[str, ...] = c.LAYERS) -> float:
    "Exponent of the power law through the medians of forward+backward (least squares in logarithms)"
    points = pixel_points(results, case, names, smallest)
    return float(np.polyfit(*np.log(np.array(points).T), 1)[0]) if len(points) > 1 else math.nan


def pixel_points(results: Results, case: str, names: tuple[str, ...], smallest: int = 0) -> list[tuple[int, float]]:
    "(pixels, seconds) of forward+backward, the fastest of these contenders"
    sizes = [size for other, _, size in results.groups("pixels") if other == case and side(size) >= smallest]
    rows = [(side(size)**2, results.best("pixels", case, "chain", size, names)) for size in sizes]
    return [(pixels, row.median_s) for pixels, row in rows if row]


def scan_rows(results: Results, case: str, size: str, direction: str) -> tuple[Row | None, list[Row]]:
    "Our scan, and the others that were timed"
    rows = [row for row in results.rows if row.part == "scans" and (row.case, row.size, row.direction) == (case, size, direction)]
    ours = next((row for row in rows if row.contender == "scan" and row.runs), None)
    return ours, [row for row in rows if row.contender != "scan"]


def scan_bars(results: Results) -> list[Bar]:
    "Scans against cummax and against a loop"
    bars = []
    for case in c.scan_plan(results.quick):
        size = "×".join(map(str, case.shape))
        ours, others = scan_rows(results, case.name, size, "fwd+bwd")
        theirs = next((row for row in others if row.runs and row.contender != c.ASSOCIATIVE), None)
        if case.discount is not None:
            bars.append(Bar(f"scan, {case.name}, {case.shape[-1]} steps, with gradient: faster than a Python loop", quotient(theirs, ours), 500, False, " ×"))
        elif case.name == "maxplus, column":
            bars.append(Bar(f"scan, {case.name}, {size}, with gradient: faster than torch.cummax", quotient(theirs, ours), 5, False, " ×"))
    return bars


def all_bars(results: Results) -> list[Bar]:
    "Every bar, in the order of the parts"
    return floor_bars(results) + composition_bars(results) + special_bars(results) + scan_bars(results)


# ---- the roofline


def work(size: str, nodes: int, direction: str) -> tuple[float, float]:
    "Bytes that must move (each of x, y, their gradients and the weights once) and flops of the contraction, for one pass"
    batch, _, rest = size.partition("×(")
    channels, outputs = map(int, rest.split(")")[0].split("→"))
    sites = int(batch)*math.prod(map(int, rest.split(")×")[1].split("×")))
    moved, flops = 4*(sites*(channels + outputs) + nodes*channels*outputs), 2*sites*channels*outputs*nodes
    return (2*moved, 3*flops) if direction == "fwd+bwd" else (moved, flops)


def bound(results: Results, size: str, direction: str) -> float:
    "Seconds below which this machine can't compute a layer of three vertices: max(bytes/bandwidth, flops/peak)"
    if not results.rates: return math.nan
    moved, flops = work(size, 3, direction)
    return max(moved/results.rates["bandwidth"], flops/results.rates["flops"])


# ---- the page


def write(results: Results, stem: Path, picture: bool) -> None:
    "The csv and the page, and the picture if asked for"
    results.fill_ratios()
    with open(f"{stem}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        for row in results.rows: writer.writerow({k: csv_value(v) for k, v in asdict(row).items()})
    if picture and results.rows: draw(results, Path(f"{stem}.png"))
    Path(f"{stem}.md").write_text(page(results, stem.name), encoding="utf-8")


def csv_value(value: object) -> object:
    "Four digits of a float, nothing for a missing one"
    return value if not isinstance(value, float) else "" if value != value else f"{value:.4g}"


def page(results: Results, name: str) -> str:
    "The whole page"
    bars = all_bars(results)
    verdicts = [bar.met for bar in bars]
    parts = [f"# Benchmark: {name}", state(results),
             table(["", ""], [[key, value] for key, value in results.machine.items()], 2), how(results), f"![pictures of these tables]({name}.png)",
             f"## Bars: {verdicts.count(True)} met, {verdicts.count(False)} not met, {verdicts.count(None)} not measured",
             table(["claim", "bound", "measured", "met?"], [bar.cells for bar in bars], 4)]
    for title, function in [("Layers, forward+backward", lambda r: layer_table(r, "fwd+bwd")), ("Layers, forward", lambda r: layer_table(r, "fwd")),
                            ("Geometric means over the sizes", means_table), ("Peak memory of one forward+backward", memory_table),
                            ("Distance from the bound of the machine", roofline_table), ("Precision and first calls", precision_table),
                            ("Scans", scan_table), ("Time against pixels", pixel_table), ("What did not run", notes)]:
        text = function(results)
        if text: parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def state(results: Results) -> str:
    "Whether this is a whole run"
    toys = " Toy sizes: a smoke test, the numbers mean nothing." if results.quick else ""
    done = ", ".join(results.parts) or "none"
    if not results.finished: return f"**Partial: the run was interrupted or is not over.** Parts completed: {done}.{toys}"
    return f"Parts: {done}; {results.seconds:.0f} s in all.{toys}"


def how(results: Results) -> str:
    "How to read the numbers"
    rates = "" if not results.rates else (f" This machine in the same run: copies at {results.rates['bandwidth']/1e9:.3g} GB/s (read plus written), "
                                          f"matrix products in float32 at {results.rates['flops']/1e9:.4g} Gflop/s.")
    return (f"Medians (quartiles in brackets or in the csv) over at least {results.runs} rounds in which all contenders of a case take turns; those too "
            "slow for that took part in fewer rounds, the csv has the number. Float32; sizes are samples×(channels in→out)×rows×columns. Backward: gradients of the "
            "input and of all parameters, learnt discounts included. On the CPU freed memory is kept for the next call unless the table above says `system`: "
            "with glibc's own habits page faults dominate large tensors, for each contender or not, depending on what ran before. The floor is a 1×1 convolution with n·O outputs, with an incoming gradient for each, "
            "in the memory format in which it is faster; `layer` is in the format in which it is faster, too. The composition is the fastest eager one "
            "(real discounts: cumsum of rescaled values in float64, or a loop over rows and columns)." + rates)


def layer_table(results: Results, direction: str) -> str:
    "Layer, floor and opponents"
    lines = []
    for case, tree, size in results.groups("layers"):
        floor, layer, eager, triangular, compiled = (results.best("layers", case, tree, size, names, direction) for names in
                                                     (c.FLOORS, c.LAYERS, c.EAGER, (c.TRIANGULAR,), (c.COMPILED,)))
        if not layer: continue
        lines.append([case, tree, size, seconds(floor), spread(layer), "last" if layer.contender == c.LAYER_LAST else "first", number(quotient(layer, floor)),
                      seconds(eager), number(quotient(eager, layer)), number(quotient(compiled, layer)), number(quotient(triangular, layer))])
    head = ["case", "tree", "size", "floor", "layer", "channels", "× floor", "composition", "layer is × faster", "than compiled", "than triangular matrices"]
    return lines and table(head, lines, 3)


def means_table(results: Results) -> str:
    "Geometric means over the sizes of the four main cases"
    lines = []
    for case in c.MAIN_CASES:
        for direction in ("fwd", "fwd+bwd"):
            best = [[results.best("layers", case, "chain", size, names, direction) for names in (c.LAYERS, c.FLOORS, c.EAGER)] for size in main_sizes(results)]
            means = [geometric_mean([f(*rows) for rows in best]) for f in (lambda l, f, e: quotient(l, f), lambda l, f, e: quotient(e, l))]
            lines.append([case, direction, *map(number, means)])
    measured = [line for line in lines if line[2] != "–"]
    return measured and table(["case (chain)", "direction", "× floor", "× faster than the eager composition"], measured, 2)


def memory_table(results: Results) -> str:
    "Peak memory"
    lines = []
    for case, tree, size in results.groups("layers"):
        peaks = [results.peak(case, tree, size, [name]) for name in (c.FLOOR, c.FLOOR_LAST, c.LAYER, c.LAYER_LAST, c.COMPOSITION, c.LOOP)]
        if any(p == p for p in peaks): lines.append([case, tree, size, *[number(p, ".0f") for p in peaks], number(memory_share(results, case, tree, size))])
    head = ["case", "tree", "size", "convolution (MB)", "channels-last", "layer (MB)", "channels-last", "composition (MB)", "its loop", "layer / composition"]
    how = ("Increase of the peak over what was resident before one more forward+backward, after a first one; inputs, parameters and incoming gradient were "
           "there. On the CPU the peak resident set of a fresh process for each contender, on CUDA the allocator's count. Results and gradients are part of it.")
    return lines and how + "\n\n" + table(head, lines, 3)


def roofline_table(results: Results) -> str:
    "How far from max(bytes/bandwidth, flops/peak)"
    lines = []
    for case, tree, size in results.groups("layers"):
        for direction in ("fwd", "fwd+bwd"):
            floor, layer, eager = (results.best("layers", case, tree, size, names, direction) for names in (c.FLOORS, c.LAYERS, c.EAGER))
            limit = bound(results, size, direction)
            if not layer or limit != limit or "linear" in case: continue
            moved, flops = work(size, 3, direction)
            lines.append([case, tree, size, direction, seconds(limit), "bandwidth" if moved/results.rates["bandwidth"] > flops/results.rates["flops"] else "flops",
                          *[number(100*limit/row.median_s, ".0f") if row else "–" for row in (floor, layer, eager)],
                          number(moved/layer.median_s/1e9, ".3g"), number(flops/layer.median_s/1e9, ".4g")])
    head = ["case", "tree", "size", "direction", "bound", "by", "floor (%)", "layer (%)", "composition (%)", "layer GB/s", "layer Gflop/s"]
    how = ("The bound is max(bytes/bandwidth, flops/peak): bytes of x, y, their gradients and the weights once each, flops of the contraction. "
           "Percentages of it are reached. The floor moves n·O outputs where the layer's compulsory output is O, so the bound lies below the floor.")
    return lines and how + "\n\n" + table(head, lines, 4)


def precision_table(results: Results) -> str:
    "Errors against float64, and how long the first calls took"
    rows = [row for row in results.rows if row.direction == "fwd+bwd" and row.error == row.error]
    first = {row.key[:5]: row.first_call_s for row in results.rows if row.direction == "fwd"}
    lines = [[row.case, row.tree, row.size, row.contender, number(row.error, ".1e"), number(row.gradient_error, ".1e"),
              seconds(first.get(row.key[:5])), seconds(row.first_call_s)] for row in rows]
    head = ["case", "tree", "size", "contender", "output", "gradients", "first forward", "first forward+backward"]
    how = ("Distance from the same sum in float64: of the output relative to its largest value, of the gradients (the worst of input and parameters) in "
           "relative 2-norm; on the first sample of the batch. A maximum may choose another of two nearly equal sites in float32, which moves a gradient "
           "as a whole: errors of gradients are larger there. First calls count whatever is compiled or loaded from a cache on disk.")
    return lines and how + "\n\n" + table(head, lines, 4)


def scan_table(results: Results) -> str:
    "Scans against PyTorch's"
    lines = []
    for case, _, size in results.groups("scans"):
        for direction in ("fwd", "fwd+bwd"):
            ours, others = scan_rows(results, case, size, direction)
            if ours: lines += [[case, size, direction, spread(ours), other.contender, spread(other) if other.runs else "did not run",
                                number(quotient(other if other.runs else None, ours), ".3g")] for other in others]
    return lines and table(["scan", "shape", "direction", "scan", "against", "", "scan is × faster"], lines, 3)


def pixel_table(results: Results) -> str:
    "Forward+backward over growing squares, with the exponents"
    lines = []
    for case, tree, size in results.groups("pixels"):
        floor, layer, eager = (results.best("pixels", case, tree, size, names) for names in (c.FLOORS, c.LAYERS, c.EAGER))
        lines.append([case, size, seconds(floor), spread(layer), number(quotient(layer, floor)), seconds(eager), number(quotient(eager, layer))])
    slopes = [f"{case}: layer {number(slope(results, case))} over all sizes, {number(slope(results, case, 256))} from 256² on; "
              f"floor {number(slope(results, case, names=c.FLOORS))}; composition {number(slope(results, case, names=c.EAGER))} where it was measured."
              for case in ("real", "maxplus")]
    head = ["case (chain)", "size", "floor", "layer", "× floor", "composition", "layer is × faster"]
    return lines and table(head, lines, 2) + "\n\nSlopes of time against pixels in logarithms (1: linear). " + " ".join(slopes)


def notes(results: Results) -> str:
    "Contenders that failed, and why"
    lines = dict.fromkeys((row.case, row.tree, row.size, row.contender, row.note) for row in results.rows if row.note)
    return lines and table(["case", "tree", "size", "contender", "what happened"], [list(line) for line in lines], 5)


# ---- the picture

COLOURS = {"layer": "#1b6ca8", "composition": "#d1495b", "compiled": "#edae49", "floor": "#444444"}


def draw(results: Results, path: Path) -> None:
    "Four panels: × floor, roofline, time against pixels, scans"
    from matplotlib.figure import Figure
    figure = Figure(figsize=(15, 11), layout="constrained")
    panels: list[tuple[Callable, str]] = [(draw_floor, "layers"), (draw_roofline, "layers"), (draw_pixels, "pixels"), (draw_scans, "scans")]
    for ax, (function, part) in zip(figure.subplots(2, 2).flat, panels):
        if results.groups(part): function(results, ax)
        else:
            ax.text(.5, .5, f"{part}: {NOT_MEASURED}", ha="center", va="center", transform=ax.transAxes, color="grey")
            ax.set_axis_off()
        ax.spines[["top", "right"]].set_visible(False)
    state = "" if results.finished else "  (partial)"
    toys = "  (toy sizes: a smoke test)" if results.quick else ""
    figure.suptitle(f"fastsums on {results.machine.get('device', results.machine['processor'])}, {results.machine['threads']}; "
                    f"{results.machine['date'][:10]}{state}{toys}", fontsize=11)
    figure.savefig(path, dpi=110)


def draw_floor(results: Results, ax) -> None:
    "Bars of × floor, with the floor and what is allowed above it"
    groups = [group for group in results.groups("layers") if results.best("layers", *group, c.LAYERS)]
    for shift, (kind, names) in zip((-.27, 0, .27), [("layer", c.LAYERS), ("composition", c.EAGER), ("compiled", (c.COMPILED,))]):
        ratios = [(i, row.ratio_to_floor) for i, group in enumerate(groups) if (row := results.best("layers", *group, names))]
        if not ratios: continue
        ax.bar([i + shift for i, _ in ratios], [r for _, r in ratios], .27, color=COLOURS[kind], label=kind if kind != "compiled" else "composition, compiled")
        if kind == "layer":
            for i, r in ratios: ax.annotate(f"{r:.1f}", (i + shift, r), ha="center", va="bottom", fontsize=7)
    allowed = {(case, tree, size): 1.5 if side(size) < 256 else 1.8 for case, tree, size in groups if case in c.MAIN_CASES and tree != c.FOREST}
    ax.hlines(list(allowed.values()), [groups.index(g) - .45 for g in allowed], [groups.index(g) - .09 for g in allowed], color="black", lw=1.5, label="allowed")
    ax.axhline(1, color=COLOURS["floor"], ls="--", lw=1, label="floor: 1×1 convolution")
    ax.set_yscale("log")
    ax.set_xticks(range(len(groups)), [f"{case}, {tree}\n{size}" for case, tree, size in groups], rotation=75, ha="right", rotation_mode="anchor", fontsize=6.5)
    ax.set_ylabel("forward+backward, × floor")
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    ax.set_ylim(top=ax.get_ylim()[1]*2)
    ax.set_title("How far above the floor")


def draw_roofline(results: Results, ax) -> None:
    "Rate of the contraction's flops against its intensity, under the machine's roof"
    if not results.rates: return
    intensity = np.logspace(0, 3, 200)
    ax.plot(intensity, np.minimum(results.rates["flops"], results.rates["bandwidth"]*intensity)/1e9, color="black", lw=1.5, label="roof: copy and matrix product, measured")
    markers = dict(zip(main_sizes(results), "os^"))
    semirings = {"real": "full", "maxplus": "none"}
    for case, tree, size in results.groups("layers"):
        if case not in semirings or tree != "chain" or size not in markers: continue
        moved, flops = work(size, 3, "fwd+bwd")
        for kind, names in [("floor", c.FLOORS), ("layer", c.LAYERS), ("composition", c.EAGER)]:
            row = results.best("layers", case, tree, size, names)
            if row and (kind, case) != ("floor", "maxplus"):
                ax.plot(flops/moved, flops/row.median_s/1e9, markers[size], color=COLOURS[kind], fillstyle=semirings[case], ms=8)
    for kind in ("floor", "layer", "composition"): ax.plot([], [], "o", color=COLOURS[kind], label=kind)
    for size, marker in markers.items(): ax.plot([], [], marker, color="grey", label=size)
    ax.plot([], [], "o", color="grey", fillstyle="none", label="open: maxplus, filled: real")
    ax.set_xscale("log"); ax.set_yscale("log")
    ax.set_xlabel("flops of the contraction per compulsory byte"); ax.set_ylabel("Gflop/s, forward+backward")
    ax.legend(fontsize=8, frameon=False)
    ax.set_title("Roofline (chain)")


def draw_pixels(results: Results, ax) -> None:
    "Seconds against pixels"
    for case, style in (("real", "-"), ("maxplus", "--")):
        for kind, names in [("layer", c.LAYERS), ("composition", c.EAGER), ("floor", c.FLOORS)]:
            points = pixel_points(results, case, names)
            if not points or (kind, case) == ("floor", "maxplus"): continue
            exponent = slope(results, case, names=names)
            label = kind if kind == "floor" else f"{kind}, {case}"
            ax.plot(*zip(*points), style, marker="o", ms=4, color=COLOURS[kind], label=f"{label}: slope {number(exponent)}")
    ax.set_xscale("log", base=2); ax.set_yscale("log")
    ticks = sorted({side(size) for _, _, size in results.groups("pixels")})
    ax.set_xticks([t*t for t in ticks], [f"{t}²" for t in ticks])
    ax.set_xlabel("pixels (one sample, 16 channels to 16)"); ax.set_ylabel("seconds, forward+backward")
    ax.legend(fontsize=8, frameon=False)
    ax.set_title("Time against pixels (chain)")


def draw_scans(results: Results, ax) -> None:
    "How many times faster than PyTorch's operators, or than a loop"
    groups = [(case, size) for case, _, size in results.groups("scans")]
    labels, values, colours = [], [], []
    for case, size in groups:
        ours, others = scan_rows(results, case, size, "fwd+bwd")
        for other in others:
            if not ours or not other.runs: continue
            labels.append(f"{case}, {size}\nagainst {other.contender}")
            values.append(quotient(other, ours))
            colours.append(COLOURS["layer"] if values[-1] >= 1 else COLOURS["composition"])
    ax.barh(range(len(values)), values, color=colours)
    for i, value in enumerate(values): ax.annotate(f" {value:.3g}", (max(value, 1), i), va="center", fontsize=7)
    ax.axvline(1, color="black", lw=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(labels)), labels, fontsize=6.5)
    ax.invert_yaxis()
    ax.set_xlabel("× faster, with gradient")
    ax.set_title("`scan` against PyTorch")
