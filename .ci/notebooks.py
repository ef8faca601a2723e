"""What the tests have to know about notebooks as files."""
import configparser
import json
import re
from pathlib import Path

from processes import ROOT

NBS = ROOT / "nbs"


def notebooks() -> list[Path]:
    "Every notebook under nbs/, hidden and private files apart (nbdev's own rule)"
    return sorted(path for path in NBS.rglob("*.ipynb") if not hidden(path))


def hidden(path: Path) -> bool:
    return any(part[0] in "._" for part in path.relative_to(NBS).parts)


def name_of(path: Path) -> str:
    return path.relative_to(NBS).as_posix()


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def flags(cell: dict) -> set[str]:
    "The words of a code cell's leading `#|` lines"
    found = set()
    for line in source(cell).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        match = re.match(r"\s*#\s*\|\s*(\w+)", line)
        found |= {match[1]} if match else set()
    return found


def settings() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def skipped_flags() -> set[str]:
    "The flags whose cells a plain run leaves out"
    return set(settings()["tst_flags"].split())


def left_out(path: Path, forced: set[str]) -> int:
    "How many code cells a run leaves out for their flags"
    return sum(bool(flags(cell) & (skipped_flags() - forced)) for cell in code_cells(path))


def has_slow_cells(path: Path) -> bool:
    try:
        return any("slow" in flags(cell) for cell in code_cells(path))
    except (ValueError, LookupError, TypeError):  # no notebook at all: its own test says so
        return False
