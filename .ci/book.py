#!/usr/bin/env python
"""The book and README.md from the notebooks, offline: no quarto, no network, nothing executed.

    python .ci/book.py                  _docs/: every chapter of _quarto.yml as a page
    python .ci/book.py --readme         README.md (and its pictures) from nbs/index.ipynb
    python .ci/book.py --check-readme   exit status 1, with the differences, if README.md is not what --readme would write

The pages show the notebooks as they are stored. Cells with `#| hide` are left out, imports are folded, and below each exported
definition its parameters can be unfolded. A link that leads nowhere is listed at the end and makes the exit status 1.
"""
import argparse
import ast
import base64
import difflib
import html
import io
import os
import re
import shutil
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
DOCS = ROOT / "_docs"
HIDDEN = {"hide", "default_exp"}
EXPORTED = {"export", "exports", "exporti"}
FLAGS = ["slow", "gpu", "data"]
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
problems: list[str] = []  # everything that should not be so, printed at the end


# ---- Reading --------------------------------------------------------------------------------------------------------------------------


def joined(text) -> str:
    "Notebooks store text as one string or as a list of lines"
    return text if isinstance(text, str) else "".join(text)


def read(path: Path):
    "The notebook, with nbdev's directives taken from its cells and obeyed"
    from nbdev.process import NBProcessor
    from nbdev.processors import filter_stream_, hide_line, populate_language, rm_header_dash
    return NBProcessor(path, procs=[populate_language, hide_line, filter_stream_, rm_header_dash], process=True).nb


def option(cell, key: str, default: str = "true") -> str:
    "A quarto option of a code cell, as in `#| echo: false`"
    return (cell.directives_.get(f"{key}:") or [default])[0].lower()


def visible(cell) -> bool:
    directives = cell.directives_ or {}
    return cell.cell_type != "raw" and not directives.keys() & HIDDEN and option(cell, "include") != "false" and "nbdev_export(" not in cell.source


def code_of(cell) -> str:
    "A code cell's source without the lines meant for nbdev and quarto"
    return "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip("\n")


def statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # shell lines and magics
        return []


def only_imports(source: str) -> bool:
    body = statements(source)
    return bool(body) and all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in body)


# ---- What the package defines ---------------------------------------------------------------------------------------------------------


def index_of_symbols() -> dict[str, tuple[str, str]]:
    "Name -> (notebook relative to nbs/, anchor), full names always and short ones where only one module has them"
    found, short = {}, {}
    for path in sorted(NBS.rglob("*.ipynb")):
        if any(part[0] in "._" for part in path.relative_to(NBS).parts):
            continue
        nb, module = read(path), None
        for cell in nb.cells:
            if cell.cell_type == "code":
                module = (cell.directives_.get("default_exp") or [module])[0]
        if module:
            found[f"fastsums.{module}"] = (path.relative_to(NBS).as_posix(), "")
        for cell in nb.cells:
            if cell.cell_type == "code" and cell.directives_.keys() & EXPORTED and module:
                for symbol in definitions(cell.source):
                    for name in [symbol.name] + [f"{symbol.name}.{m.name}" for m in symbol.methods]:
                        place = (path.relative_to(NBS).as_posix(), name.lower())
                        found[f"fastsums.{module}.{name}"] = place
                        short.setdefault(name, set()).add(place)
    found.update({name: places.pop() for name, places in short.items() if len(places) == 1})
    return found


@dataclass
class Symbol:
    "An exported function or class, with what its docments say"
    name: str
    text: str = ""  # first paragraph of the docstring
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)  # name, type, default, meaning
    methods: list["Symbol"] = field(default_factory=list)


def comments_of(source: str) -> dict[int, str]:
    "Line number -> trailing comment"
    found = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string.lstrip("# ").strip()
    except tokenize.TokenError:
        pass
    return found


def function_rows(node: ast.FunctionDef, comments: dict[int, str]) -> list[tuple[str, str, str, str]]:
    arguments = node.args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    pairs = list(zip(plain, defaults)) + list(zip(arguments.kwonlyargs, arguments.kw_defaults))
    pairs += [(a, None) for a in (arguments.vararg, arguments.kwarg) if a]
    last_argument = max((d or a).end_lineno for a, d in pairs) if pairs else node.lineno
    rows = []
    for argument, default in pairs:
        if argument.arg in ("self", "cls"):
            continue
        line = (default or argument).end_lineno
        # A comment belongs to a parameter only if the parameter has the line for itself.
        alone = sum((d or a).end_lineno == line for a, d in pairs if a.arg not in ("self", "cls")) == 1
        stars = "*" if argument is arguments.vararg else "**" if argument is arguments.kwarg else ""
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        rows.append((stars + argument.arg, annotation, ast.unparse(default) if default else "", comments.get(line, "") if alone else ""))
    if node.returns is not None and not (isinstance(node.returns, ast.Constant) and node.returns.value is None):
        line = node.returns.end_lineno
        meaning = comments.get(line, "") if line > last_argument or not rows or not rows[-1][3] else ""
        rows.append(("returns", ast.unparse(node.returns), "", meaning))
    return rows


def definitions(source: str) -> list[Symbol]:
    "The public functions and classes that a cell defines"
    found, comments = [], comments_of(source)
    for node in statements(source):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        text = (ast.get_docstring(node) or "").split("\n\n")[0]
        if isinstance(node, ast.ClassDef):
            symbol = Symbol(node.name, text)
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
                    default = ast.unparse(item.value) if item.value else ""
                    symbol.rows.append((item.target.id, ast.unparse(item.annotation), default, comments.get(item.end_lineno, "")))
                elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    symbol.rows += function_rows(item, comments)
                elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    symbol.methods.append(Symbol(item.name, (ast.get_docstring(item) or "").split("\n\n")[0], function_rows(item, comments)))
        else:
            symbol = Symbol(patched_name(node), text, function_rows(node, comments))
        found.append(symbol)
    return found


def patched_name(node: ast.FunctionDef) -> str:
    "`Class.method` for a method added with fastcore's `patch`"
    names = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    first = node.args.args[0] if node.args.args else None
    return f"{ast.unparse(first.annotation)}.{node.name}" if "patch" in names and first is not None and first.annotation else node.name


# ---- README.md ------------------------------------------------------------------------------------------------------------------------


def linked(markdown: str, symbols: dict, address) -> str:
    "Turn `name` in prose into a link to where the name is defined; `address(notebook, anchor)` gives the link"
    def link(match):
        place = symbols.get(match[1].removesuffix("()"))
        return f"[{match[0]}]({address(*place)})" if place else match[0]
    lines, fenced = markdown.split("\n"), False
    for i, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and not line.startswith(("    ", "#")):
            # not inside an existing link's text
            lines[i] = re.sub(r"(?<!\[)`([A-Za-z_][\w.]*(?:\(\))?)`(?!\])", link, line)
    return "\n".join(lines)


def from_root(target: str) -> str:
    "A link of nbs/index.ipynb, seen from the repository's root"
    if re.match(r"[a-z]+:|#|/", target):
        return target
    path, _, anchor = target.partition("#")
    path = os.path.relpath(NBS / unquote(path), ROOT).replace(os.sep, "/")
    if not (ROOT / path).exists():
        problems.append(f"nbs/index.ipynb: the link {target} leads nowhere")
    return quote(path) + (f"#{anchor}" if anchor else "")


def relinked(markdown: str) -> str:
    "Markdown links and pictures, and HTML ones, of nbs/index.ipynb, seen from the root"
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", markdown, flags=re.S | re.M)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(\]\()([^)\s]+)", lambda m: m[1] + from_root(m[2]), parts[i])
        parts[i] = re.sub(r"""((?:href|src)=["'])([^"']+)""", lambda m: m[1] + from_root(m[2]), parts[i])
    return "".join(parts)


def readme() -> tuple[str, dict[str, bytes]]:
    "README.md and its pictures by path, from the outputs that nbs/index.ipynb holds"
    symbols, blocks, pictures = index_of_symbols(), [], {}
    for cell in read(NBS / "index.ipynb").cells:
        if not visible(cell):
            continue
        if cell.cell_type == "markdown":
            # linked() first: a link around code is then left alone by relinked(), which knows addresses only
            blocks.append(relinked(linked(cell.source, symbols, lambda notebook, anchor: quote(notebook))))
            continue
        if cell.directives_.keys() & EXPORTED:
            continue
        if code_of(cell) and option(cell, "echo") != "false":
            blocks.append(f"```python\n{code_of(cell)}\n```")
        for number, output in enumerate(cell.outputs if option(cell, "output") != "false" else []):
            data = output.get("data", {})
            kind = next((k for k in ["text/markdown", *PICTURES, "text/html", "text/plain"] if k in data), None)
            if output.output_type == "stream":
                if text := ANSI.sub("", joined(output.text)).strip("\n"):
                    blocks.append(f"```\n{text}\n```")
            elif kind in PICTURES:
                name = f"figures/index_{cell.id}_{number}.{PICTURES[kind]}"
                content = joined(data[kind])
                pictures[name] = content.encode() if kind == "image/svg+xml" else base64.b64decode(content)
                alt = " ".join(cell.directives_.get("fig-alt:") or ["picture"]).strip('"')
                blocks.append(f"![{alt}]({name})")
            elif kind == "text/html":
                blocks.append(re.sub(r"<style.*?</style>", "", joined(data[kind]), flags=re.S).strip())
            elif kind == "text/markdown":
                blocks.append(relinked(joined(data[kind])))
            elif kind:
                blocks.append(f"```\n{joined(data[kind])}\n```")
    note = "<!-- Made from nbs/index.ipynb by `make export`. Edit the notebook, not this file. -->"
    return "\n\n".join([note] + [block.strip("\n") for block in blocks]) + "\n", pictures


def stale_pictures(pictures: dict) -> list[Path]:
    return [path for path in sorted((ROOT / "figures").glob("index_*")) if path.relative_to(ROOT).as_posix() not in pictures]


def write_readme() -> None:
    text, pictures = readme()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    for path in stale_pictures(pictures):
        path.unlink()
    for name, content in pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)
    print(f"README.md: {len(text.splitlines())} lines, {len(pictures)} pictures")


def check_readme() -> None:
    text, pictures = readme()
    here = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
    if text != here:
        lines = list(difflib.unified_diff(here.splitlines(), text.splitlines(), "README.md", "nbs/index.ipynb", lineterm="", n=1))
        problems.append("README.md is not what nbs/index.ipynb says (make export writes it):\n" + "\n".join(f"    {line}" for line in lines[:30]))
    for name, content in pictures.items():
        if not (ROOT / name).exists() or (ROOT / name).read_bytes() != content:
            problems.append(f"{name} is not the picture in nbs/index.ipynb (make export writes it)")
    problems.extend(f"{path.relative_to(ROOT)} belongs to no cell of nbs/index.ipynb" for path in stale_pictures(pictures))


# ---- The book: cells to HTML ----------------------------------------------------------------------------------------------------------


def html_of(markdown: str) -> str:
    from nbconvert.filters import markdown2html
    return markdown2html(markdown)


def inline(text: str) -> str:
    "A comment or docstring: plain text in which only `code` and formulas mean something"
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def highlighted(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
    return highlight(source, PythonLexer(stripnl=False), HtmlFormatter(cssclass="highlight"))


def table(rows: list[tuple[str, str, str, str]]) -> str:
    def code(text):
        return f"<code>{html.escape(text)}</code>" if text else ""
    body = "".join(
        f"<tr><th>{'<em>returns</em>' if name == 'returns' else code(name)}</th><td>{code(kind)}</td><td>{code(default)}</td>"
        f"<td>{inline(meaning)}</td></tr>" for name, kind, default, meaning in rows)
    head = "<tr><th></th><th>type</th><th>default</th><th></th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>' if rows else ""


def symbol_html(symbol: Symbol) -> str:
    "What can be unfolded below a definition; always an anchor to link to"
    methods = [m for m in symbol.methods if m.rows or m.text]
    anchor = symbol.name.lower()
    if not symbol.rows and not methods:
        return f'<span id="{anchor}"></span>'
    parts = [table(symbol.rows)]
    for method in methods:
        text = f" {inline(method.text)}" if method.text else ""
        parts.append(f'<p class="method" id="{anchor}.{method.name.lower()}"><code>{symbol.name}.{method.name}</code>{text}</p>{table(method.rows)}')
    words = f"<span>{inline(symbol.text)}</span>" if symbol.text else ""
    return f'<details class="symbol" id="{anchor}"><summary><code>{symbol.name}</code> {words}</summary>{"".join(parts)}</details>'


def picture(data: str, kind: str, alt: str) -> str:
    # As a picture of its own: the names inside one SVG drawing do not then collide with those of the next.
    content = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data.replace("\n", "")
    return f'<img src="data:{kind};base64,{content}" alt="{html.escape(alt)}">'


def output_html(output, cell) -> str:
    data = output.get("data", {})
    if output.output_type == "stream":
        text = ANSI.sub("", joined(output.text)).strip("\n")
        return f'<pre class="{output.name}">{html.escape(text)}</pre>' if text else ""
    if output.output_type == "error":
        return f'<pre class="stderr">{html.escape(ANSI.sub("", joined(output.traceback)))}</pre>'
    alt = (cell.directives_.get("fig-alt:") or cell.directives_.get("fig-cap:") or ["picture drawn by the cell above"])
    for kind in ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain"]:
        if kind not in data:
            continue
        text = joined(data[kind])
        if kind in PICTURES:
            return picture(text, kind, " ".join(alt))
        if kind == "text/html":
            return f'<div class="scroll">{text}</div>'
        if kind == "text/markdown":
            # nbdev's show_doc: its link to the source needs a network, and the source is on this page
            text = re.sub(r"\[source\]\([^)]*\)(?:\{[^}]*\})?", "", text).removeprefix("---")
            return html_of(re.sub(r'\{target="_blank"[^}]*\}', "", text))
        return html.escape(text) if kind == "text/latex" else f"<pre>{html.escape(text)}</pre>"
    return ""


def cell_html(cell, symbols: dict, address) -> str:
    if cell.cell_type == "markdown":
        return html_of(linked(cell.source, symbols, address))
    source, exported = code_of(cell), bool(cell.directives_.keys() & EXPORTED)
    parts = []
    if source and option(cell, "echo") != "false" and not source.startswith("show_doc("):
        code = highlighted(source)
        if only_imports(source):
            code = f'<details class="imports"><summary>imports</summary>{code}</details>'
        names = [flag for flag in FLAGS if flag in cell.directives_]
        label = f'<span class="label">{" ".join(names)}</span>' if names else ""
        parts.append(f'<div class="code{" exported" if exported else ""}">{label}{code}</div>')
    parts += [symbol_html(symbol) for symbol in definitions(source)] if exported else []
    outputs = [output_html(output, cell) for output in cell.outputs] if option(cell, "output") != "false" else []
    parts += [f'<div class="output">{output}</div>' for output in outputs if output]
    return "\n".join(parts)


# ---- The book: pages ------------------------------------------------------------------------------------------------------------------


@dataclass
class Page:
    notebook: str  # relative to nbs/
    section: str
    title: str = ""
    soup: object = None
    ids: dict[str, str] = field(default_factory=dict)  # lower case -> as it is written

    @property
    def address(self) -> str:
        "Relative to _docs/; the name that nbdev and quarto give the page, without the number"
        folder, _, name = self.notebook.rpartition("/")
        return (folder + "/" if folder else "") + re.sub(r"^\d+[a-zA-Z0-9]*_", "", name.lower()).replace(".ipynb", ".html")


def chapters() -> list[Page]:
    "The pages in reading order, from the sidebar of _quarto.yml"
    settings = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    def walk(contents, section):
        for item in contents:
            if isinstance(item, str):
                yield Page(item, section)
            elif "section" in item:
                yield from walk(item["contents"], item["section"])
            else:
                yield Page(item["href"], section)
    return list(walk(settings["website"]["sidebar"]["contents"], ""))


def relative(target: str, page: Page) -> str:
    return os.path.relpath(target, os.path.dirname(page.address) or ".").replace(os.sep, "/")


def render(page: Page, pages: dict[str, Page], symbols: dict) -> None:
    from bs4 import BeautifulSoup
    def address(notebook, anchor):
        return f"symbol:{notebook}#{anchor}"
    nb = read(NBS / page.notebook)
    body = "\n".join(cell_html(cell, symbols, address) for cell in nb.cells if visible(cell))
    page.soup = BeautifulSoup(body, "html.parser")
    first = page.soup.find("h1")
    if first is None:
        problems.append(f"nbs/{page.notebook}: has no title (a heading of the first level)")
    else:
        for mark in first.find_all(class_="anchor-link"):
            mark.extract()
        page.title = first.decode_contents().strip()
    for tag in page.soup.find_all(id=True):
        tag["id"] = unquote(tag["id"])  # nbconvert quotes it for use in an address
        if tag["id"] in page.ids.values():
            problems.append(f"nbs/{page.notebook}: two things are called #{tag['id']}") if tag.name[0] == "h" else None
        page.ids.setdefault(tag["id"].lower(), tag["id"])


def relink(page: Page, pages: dict[str, Page]) -> None:
    "Send every relative link of a page to the page or file it means"
    folder = (NBS / page.notebook).parent
    for tag in page.soup.find_all(["a", "img"]):
        key = "href" if tag.name == "a" else "src"
        target = tag.get(key, "")
        path, _, anchor = unquote(target).partition("#")
        if target.startswith("symbol:"):
            other = pages.get(path.removeprefix("symbol:"))
            if other is None:  # a notebook that is not in the book
                tag.unwrap()
                continue
            anchor = next((other.ids[a] for a in (anchor, anchor.split(".")[0]) if a in other.ids), "")
            tag[key] = ("" if other is page else relative(other.address, page)) + (f"#{anchor}" if anchor else "")
            tag["class"] = "name"
            continue
        if not target or re.match(r"[a-z]+:|//", target):
            continue
        file = (folder / path).resolve() if path else NBS / page.notebook
        other = pages.get(file.relative_to(NBS).as_posix()) if file.is_relative_to(NBS) else None
        if other is not None:
            if anchor and anchor.lower() not in other.ids:
                problems.append(f"nbs/{page.notebook}: {target}: nothing there is called #{anchor}")
            anchor = other.ids.get(anchor.lower(), anchor)
            tag[key] = ("" if other is page and anchor else relative(other.address, page)) + (f"#{quote(anchor)}" if anchor else "")
        elif not file.is_relative_to(ROOT) or not file.exists():
            problems.append(f"nbs/{page.notebook}: the link {target} leads nowhere")
        elif file.suffix == ".ipynb" and file.is_relative_to(NBS):
            problems.append(f"nbs/{page.notebook}: {target} is not a chapter of _quarto.yml")
        elif file.is_dir():
            tag.unwrap()  # a folder is a place in the repository, not in the book
        else:
            copy = DOCS / "files" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
            tag[key] = quote(relative(copy.relative_to(DOCS).as_posix(), page))


def sidebar(page: Page, pages: list[Page]) -> str:
    parts, section = [], None
    for other in pages:
        if other.section != section:
            section = other.section
            parts.append(f"<li class='section'>{html.escape(section)}</li>")
        here = ' aria-current="page"' if other is page else ""
        parts.append(f'<li><a href="{relative(other.address, page)}"{here}>{other.title or other.notebook}</a>')
        if other is page:
            headings = []
            for heading in page.soup.find_all("h2"):
                text = "".join(str(child) for child in heading.contents if getattr(child, "get", lambda *_: None)("class") != ["anchor-link"])
                headings.append(f'<li><a href="#{quote(heading.get("id", ""))}">{re.sub("</?a[^>]*>", "", text)}</a></li>')
            parts.append(f"<ol>{''.join(headings)}</ol>" if headings else "")
        parts.append("</li>")
    return f"<ul>{''.join(parts)}</ul>"


MATH = r"""<script>window.MathJax = {
  showMathMenu: false, messageStyle: "none", menuSettings: {assistiveMML: false},
  "HTML-CSS": {availableFonts: [], webFont: "STIX-Web", imageFont: null},
  tex2jax: {inlineMath: [["$", "$"], ["\\(", "\\)"]], displayMath: [["$$", "$$"], ["\\[", "\\]"]], processEscapes: true}
};</script>
<script src="MATHJAX?config=TeX-AMS-MML_HTMLorMML-full" defer></script>"""


def page_html(page: Page, pages: list[Page]) -> str:
    place = pages.index(page)
    neighbours = [(pages[i], word) for i, word in ((place - 1, "prev"), (place + 1, "next")) if 0 <= i < len(pages)]
    turn = "".join(f'<a rel="{word}" href="{relative(other.address, page)}">{other.title}</a>' for other, word in neighbours)
    content = str(page.soup)
    math = MATH.replace("MATHJAX", relative("assets/mathjax/MathJax.js", page)) if "$" in content or "\\begin{" in content else ""
    title = re.sub("<[^>]+>", "", page.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title if place == 0 else title + " · fastsums"}</title>
<link rel="stylesheet" href="{relative("assets/book.css", page)}">
{math}
</head>
<body>
<input type="checkbox" id="menu" aria-label="contents"><label for="menu">Contents</label>
<nav>{sidebar(page, pages)}</nav>
<main>
{content}
<footer>{turn}</footer>
</main>
</body>
</html>
"""


def mathjax(folder: Path) -> None:
    "The part of MathJax that sets TeX in web fonts"
    import jupyter_server_mathjax
    source = Path(jupyter_server_mathjax.__file__).parent / "static"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["MathJax.js", "LICENSE"]:
        shutil.copy(source / name, folder / name)
    for name in ["config", "fonts", "jax/element", "jax/output/HTML-CSS", "extensions"]:
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("a11y", "Safe.js"))


def make_book() -> None:
    from pygments.formatters import HtmlFormatter
    pages = chapters()
    listed = {page.notebook for page in pages}
    for page in [p for p in pages if not (NBS / p.notebook).exists()]:
        problems.append(f"_quarto.yml: there is no nbs/{page.notebook}")
        pages.remove(page)
    for path in sorted(NBS.rglob("*.ipynb")):
        name = path.relative_to(NBS).as_posix()
        if name not in listed and not any(part[0] in "._" for part in Path(name).parts):
            problems.append(f"_quarto.yml: nbs/{name} is not a chapter")
    shutil.rmtree(DOCS, ignore_errors=True)
    (DOCS / "assets").mkdir(parents=True)
    by_name, symbols = {page.notebook: page for page in pages}, index_of_symbols()
    for page in pages:
        render(page, by_name, symbols)
    for page in pages:
        relink(page, by_name)
    for page in pages:
        (DOCS / page.address).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / page.address).write_text(page_html(page, pages), encoding="utf-8")
    style = (Path(__file__).parent / "book.css").read_text(encoding="utf-8")
    (DOCS / "assets" / "book.css").write_text(style + HtmlFormatter(style="friendly").get_style_defs(".highlight"), encoding="utf-8")
    mathjax(DOCS / "assets" / "mathjax")
    print(f"_docs/: {len(pages)} pages")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--readme", action="store_true", help="write README.md")
    task.add_argument("--check-readme", action="store_true", help="compare README.md with nbs/index.ipynb")
    options = parser.parse_args()
    os.chdir(ROOT)  # nbdev looks for settings.ini from here
    if (options.readme or options.check_readme) and not (NBS / "index.ipynb").exists():
        problems.append("there is no nbs/index.ipynb")
    elif options.readme:
        write_readme()
    elif options.check_readme:
        check_readme()
    else:
        make_book()
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
