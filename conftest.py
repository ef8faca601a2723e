"""pytest runs the notebooks: each is one test, nbdev's own, in a process of its own. `pytest` alone works too; `make test` installs everything first.

A notebook with `#| slow` cells has two tests, `test` without them and `slow` with them; `-m "not slow"` selects the first, and where both are
selected only the second runs, which executes every cell of the first. The longest run first, as far as earlier runs are remembered.
"""
import csv
import signal

import pytest

import notebooks  # of .ci/, as the next
import processes

DURATIONS = "fastsums/durations"  # in pytest's cache: test -> seconds


def pytest_addoption(parser):
    group = parser.getgroup("notebooks")
    group.addoption("--flags", default="", help="flags whose cells are to run too, as in --flags 'gpu data' (`#| slow` ones are tests of their own)")
    group.addoption("--durations-to", metavar="FILE.csv", help="write what each test took: item,seconds,outcome")


def pytest_configure(config):
    if unknown := set(config.getoption("--flags").split()) - (notebooks.skipped_flags() - {"slow"}):
        raise pytest.UsageError(f"--flags knows {' '.join(sorted(notebooks.skipped_flags() - {'slow'}))}; got {' '.join(sorted(unknown))}")
    processes.set_environment()
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(config), "fastsums-record")
        signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: nothing that was started may stay behind


def _interrupt(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would interrupt the tidying up
    raise KeyboardInterrupt


# ---- The notebooks as tests -------------------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".ipynb" and file_path.is_relative_to(notebooks.NBS) and not notebooks.hidden(file_path):
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        yield Cells.from_parent(self, name="test")
        if notebooks.has_slow_cells(self.path):
            yield Cells.from_parent(self, name="slow")


class NotebookFailed(Exception):
    "A cell has raised; the message is what the run has printed, with the traceback"


class Cells(pytest.Item):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        core = {"core"} if self.path.parent in (notebooks.NBS, notebooks.NBS / "layers") else set()
        for marker in core | {"slow"} & {self.name} | {"kernels"} & set(self.path.parts):
            self.add_marker(marker)

    def setup(self):
        processes.ready()  # once; not part of what the first notebook takes

    def runtest(self):
        forced = set(self.config.getoption("--flags").split()) | ({"slow"} & {self.name})
        status, output = processes.call("processes:run_notebook", str(self.path), sorted(forced))
        if status:
            raise NotebookFailed(output or f"exit status {status}, and nothing printed")
        self.user_properties.append(("cells left out", notebooks.left_out(self.path, forced)))

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, (NotebookFailed, pytest.fail.Exception)):  # the latter: it took too long
            return "\n".join(filter(None, [getattr(excinfo.value, "output", ""), str(excinfo.value)]))
        return super().repr_failure(excinfo, "short")

    def reportinfo(self):
        return self.path, None, f"{notebooks.name_of(self.path)} {self.name}"


# ---- Which, and in which order -----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)  # after -k and -m have selected
def pytest_collection_modifyitems(config, items):
    whole = {item.path for item in items if isinstance(item, Cells) and item.name == "slow"}
    redundant = [item for item in items if isinstance(item, Cells) and item.name == "test" and item.path in whole]
    items[:] = [item for item in items if item not in redundant]
    measured = config.cache.get(DURATIONS, {}) if hasattr(config, "cache") else {}
    items.sort(key=lambda item: _expected(item, measured), reverse=True)  # stable: equal ones stay in the order of the files


def _expected(item, measured):
    "Seconds that a test may take: as measured before, otherwise by what is known to be long"
    return measured.get(item.nodeid, 100*bool(item.get_closest_marker("slow")) + 50*bool(item.get_closest_marker("kernels")) + 10*isinstance(item, Cells))


# ---- What they took ----------------------------------------------------------------------------------------------------------------------


class Record:
    "Durations, for the order of the next run and for `--durations-to`; how many cells were left out"

    def __init__(self, config):
        self.config, self.rows, self.left_out = config, [], 0

    def pytest_runtest_logreport(self, report):
        if (report.when == "call" or report.failed or report.skipped) and type(report) is pytest.TestReport:  # a subtest's report is of another type
            self.rows.append((report.nodeid, round(report.duration, 2), report.outcome))
            self.left_out += dict(report.user_properties).get("cells left out", 0)

    def pytest_sessionfinish(self):
        if hasattr(self.config, "cache") and not self.config.getoption("collectonly"):
            known = self.config.cache.get(DURATIONS, {})
            self.config.cache.set(DURATIONS, known | {name: seconds for name, seconds, outcome in self.rows if outcome == "passed"})
        if path := self.config.getoption("--durations-to"):
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([("item", "seconds", "outcome"), *self.rows])

    def pytest_terminal_summary(self, terminalreporter):
        if self.left_out:
            terminalreporter.write_line(f"{self.left_out} cells left out for their flags (--flags runs those for a GPU or for other data)")
