"""The documents: their links lead somewhere, and the API reference lists every public name."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import sklearn_soapbpnn

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("how_it_works/*.md")])
DOCUMENTS = sorted([*ROOT.glob("*.md"), *PAGES])
# what Sphinx makes when it builds the site
MADE = ("gallery/", "api/")
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
PUBLIC = ("", ".datasets", ".metrics", ".selection", ".interfaces.ase", ".interfaces.lammps")


def find_links(document):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", document.read_text(), flags=re.M | re.S)
    for path, anchor in LINK.findall(text):
        if not path.startswith(("http:", "https:", "mailto:", *MADE)):
            yield path, anchor[1:]


def find_anchors(document):
    """Return the anchors that GitHub and Sphinx give to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for path, anchor in find_links(document):
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {path}"
        if anchor and target.suffix == ".md":
            included = {"contributing.md", "changelog.md"}
            if target.parent.name == "docs" and target.name in included:
                target = ROOT / target.name.upper().replace(".MD", ".md")
            assert anchor in find_anchors(target), f"{document.name} links to {path}#{anchor}"


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for document in PAGES:
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", document.read_text(), flags=re.S):
            listed |= {line for line in entries.splitlines() if line and line[0] != ":"}
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in PAGES}
    assert pages - listed == {"index"}
    assert listed - pages == {"api", "gallery/index"}


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "how_it_works").glob("*.md")), ids=lambda path: path.stem
)
def test_the_page_of_a_folder_lists_its_files(page):
    package = ROOT / "sklearn_soapbpnn"
    listed = set(re.findall(r"\w+\.py", page.read_text().partition("## Files")[2]))
    own, known = (
        {path.name for path in folder.rglob("*.py")} for folder in (package / page.stem, package)
    )
    assert own - {"__init__.py"} <= listed <= known


def test_the_reference_lists_every_public_name():
    text = (ROOT / "docs" / "api.rst").read_text()
    parts = re.split(r"^\.\. currentmodule:: (\S+)$", text, flags=re.M)
    listed = set()
    for module, part in zip(parts[1::2], parts[2::2]):
        listed |= {f"{module}.{name}" for name in re.findall(r"^   (\w+)$", part, flags=re.M)}
    for suffix in PUBLIC:
        module = importlib.import_module(f"sklearn_soapbpnn{suffix}")
        names = {name for name in module.__all__ if callable(getattr(module, name))}
        assert {f"{module.__name__}.{name}" for name in names} <= listed


def test_the_repository_is_the_same_everywhere():
    url = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == url
    for path in (*DOCUMENTS, ROOT / "docs" / "conf.py"):
        for found in re.findall(r"https://github\.com/sklearn-soapbpnn/[\w.-]+", path.read_text()):
            assert found == url, path.name
    assert citation["license"] == "BSD-3-Clause"
    assert sklearn_soapbpnn.__version__ not in (ROOT / "CITATION.cff").read_text()
