"""mkdocs hooks: what the site shows beside docs/, and links that hold in the site as they do in the repository.

The pages of docs/ link to README.md, CONTRIBUTING.md, results and source files by their paths in the repository, where
everybody can follow them. mkdocs knows only what lies in docs/ and would call each of these links broken. So PAGES, the
pages of results and every file that some page links to or names as code become pages of the site while it is built, and
the links are turned to them. A link to what does not exist is left as it stands, and the strict build fails on it.

`<!-- README.md: Results -->` on a line of its own shows that section of that file.
"""

from __future__ import annotations

import ast
import os.path
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
RESULTS = "benchmarks/results/"  # its pages lie below results/ in the site
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
FENCED = re.compile(r"^(```|~~~).*?^\1[ \t]*$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE_NAME = re.compile(r"(?<![\[`])`((?:lnl_core|tasks|flows|tests|benchmarks|dev)/[\w/]+\.py)`(?: `(\w+)`)?(?!\])")
INCLUDED = re.compile(r"^<!-- (\S+\.md): (.+) -->$", flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files if file.is_documentation_page()}
    outside = [*PAGES, *(f"{RESULTS}{path.name}" for path in sorted((REPOSITORY / RESULTS).glob("*.md")))]
    texts |= {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in outside}
    for name in outside:
        if files.get_file_from_path(page_of(name)) is None:  # docs/index.md stands in for README.md
            files.append(File.generated(config, page_of(name), content=texts[name]))
    for name in sorted({target for text_of, text in texts.items() for target in source_files(text, text_of)}):
        files.append(File.generated(config, page_of(name), content=source_page(name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Includes sections of other files and turns the links."""
    here = page.file.src_uri
    if here.startswith("code/"):
        return markdown
    return turned(included(markdown), repository_path(here), here)


def page_of(name: str) -> str:
    """Where the site has the file `name` of the repository: a page, or a static file of docs/."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if name.startswith(RESULTS) and name.endswith(".md"):
        return f"results/{PurePosixPath(name).name}"
    return PAGES.get(name, f"code/{name}.md")


def repository_path(page: str) -> str:
    """The file of the repository that the page shows."""
    if (REPOSITORY / "docs" / page).is_file():
        return f"docs/{page}"
    names = {shown: name for name, shown in PAGES.items()}
    return names.get(page, f"{RESULTS}{PurePosixPath(page).name}")


def included(markdown: str) -> str:
    """`markdown` with the sections that it names, their links turned to be those of a page of docs/."""

    def section(found: re.Match[str]) -> str:
        name, heading = found.groups()
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        body = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
        if body is None:
            raise ValueError(f"{name} has no section {heading!r}")

        def link(found: re.Match[str]) -> str:
            return _relative(_target(found[1], name), "docs/index.md") + (found[2] or "")

        return outside_code(body[1], lambda part: LINK.sub(link, part))

    return INCLUDED.sub(section, markdown)


def turned(markdown: str, name: str, page: str) -> str:
    """The links of `markdown`, which is the file `name` of the repository, as they are in `page` of the site."""

    def link(found: re.Match[str]) -> str:
        target = _target(found[1], name)
        if not (REPOSITORY / target).is_file():
            return found[0]
        return _relative(page_of(target), page) + (found[2] or "")

    def code(found: re.Match[str]) -> str:
        if not (REPOSITORY / found[1]).is_file():
            return found[0]
        target = _relative(page_of(found[1]), page)
        named = f" [`{found[2]}`]({target}#{found[2]})" if found[2] else ""
        return f"[`{found[1]}`]({target}){named}"

    return outside_code(markdown, lambda part: CODE_NAME.sub(code, LINK.sub(link, part)))


def source_files(markdown: str, name: str) -> set[str]:
    """Files of the repository, no pages themselves, that the text of the file `name` links to or names as code."""
    found: set[str] = set()

    def collect(part: str) -> str:
        found.update(_target(link[1], name) for link in LINK.finditer(part))
        found.update(code[1] for code in CODE_NAME.finditer(part))
        return part

    outside_code(markdown, collect)
    return {target for target in found if page_of(target).startswith("code/") and (REPOSITORY / target).is_file()}


def source_page(name: str) -> str:
    """The file as a page, with a heading for each of its classes and functions that links can name."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    language = LANGUAGES.get(PurePosixPath(name).suffix, "text")
    lines = text.splitlines()
    starts = {1: ""}
    if language == "python":
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                starts[min([node.lineno, *(mark.lineno for mark in node.decorator_list)])] = node.name
    pieces = [f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n"]
    for first, after in zip(starts, [*list(starts)[1:], len(lines) + 1], strict=True):
        if starts[first]:
            pieces.append(f"## {starts[first]} {{: #{starts[first]} }}\n")
        piece = "\n".join(lines[first - 1 : after - 1]).strip("\n")
        pieces.append(f'````{{ .{language} linenums="{first}" }}\n{piece}\n````\n')
    return "\n".join(pieces)


def outside_code(markdown: str, change: Any) -> str:
    """`change` applied to what is neither a fenced nor an indented block of code."""
    parts, end = [], 0
    for block in FENCED.finditer(markdown):
        parts += [_lines(markdown[end : block.start()], change), block[0]]
        end = block.end()
    return "".join([*parts, _lines(markdown[end:], change)])


def _lines(text: str, change: Any) -> str:
    return "".join(line if line.startswith("    ") else change(line) for line in text.splitlines(keepends=True))


def _target(link: str, name: str) -> str:
    """The path in the repository of a link in the file `name`."""
    return os.path.normpath((PurePosixPath(name).parent / link).as_posix())


def _relative(target: str, page: str) -> str:
    return os.path.relpath(target, PurePosixPath(page).parent)
