"""Open every page of the site in Chromium: light and dark, on a phone, and with no other host to ask."""

import json
import os
import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import chapters
import nbformat
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
HTML, NBS = ROOT / "docs" / "_build" / "html", ROOT / "nbs"
CHAPTERS = [path.relative_to(NBS).with_suffix("").as_posix() for path in chapters.chapters()]
PAGES = sorted(
    path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html") if "_static" not in path.parts
)
ASKED = set()  # ids of the requests of pages
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
]
# what a page looks like once it is drawn: formulas, diagrams, pictures, text
STATE = r"""
const inside = "pre, code, script, style, mjx-container, textarea, .mermaid, .cell_output";
const outside = (node) => !node.parentElement.closest(inside);
const mathematics = /\$[^$\n]+\$|\\\(|\\\[|\\(frac|mathbf|sum|text)\b/;
const wrong = ["mjx-merror", "[data-mjx-error]", "g[data-mml-node=merror]",
  ".mermaid .error-icon", ".mermaid .error-text"].join();
const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
const raw = [];
for (let node; (node = walker.nextNode());)
  if (outside(node) && mathematics.test(node.data)) raw.push(node.data.trim().slice(0, 80));
const all = (query) => [...document.querySelectorAll(query)];
return {
  raw,
  waiting: all(".math").filter((m) => !m.querySelector("mjx-container")).length
    + all("pre.mermaid").filter((m) => !m.querySelector("svg")).length
    + all("main img").filter((i) => !i.complete).length,
  errors: all(wrong).length,
  empty: all("main img").filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
"""


class Quiet(SimpleHTTPRequestHandler):
    """A file server that writes no log."""

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def site():
    """The address of the site, served on this machine."""
    if not (HTML / "index.html").exists():
        pytest.fail("there is no site to test; run: make docs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that logs what it asks for and what goes wrong."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        message = "Debian's chromium and chromium-driver are not installed; run: make browser"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    options = Options()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_page_load_timeout(60)
    yield chrome
    chrome.quit()


def show(browser, url: str, theme: str = "light") -> dict:
    """Open a page in a theme and wait until it is drawn."""
    browser.get(url)
    if browser.execute_script("return document.documentElement.dataset.theme") != theme:
        browser.execute_script("localStorage.mode = localStorage.theme = arguments[0]", theme)
        browser.get(url)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    state = browser.execute_script(STATE)

    def drawn(_) -> bool:
        state.update(browser.execute_script(STATE))
        return not state["waiting"]

    try:
        WebDriverWait(browser, 20, 0.1).until(drawn)
    except Exception:
        pytest.fail(f"{url}: {state['waiting']} formulas, diagrams or pictures are not drawn after 20 s")
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    return state


def complaints(browser, site: str) -> list[str]:
    """Console errors, failed requests and requests to other hosts since the last call.

    The browser has requests of its own, which fail where there is no network: only those of pages count."""
    found = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        params = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            url = params["request"]["url"]
            ASKED.add(params["requestId"])
            if not url.startswith((site, "data:", "blob:", "about:", "chrome:")):
                found.append(f"asks another host: {url}")
        elif message["method"] == "Network.responseReceived" and params["response"]["status"] >= 400:
            found.append(f"{params['response']['status']} {params['response']['url']}")
        elif message["method"] == "Network.loadingFailed" and not params.get("canceled"):
            if params["requestId"] in ASKED:
                found.append(f"failed: {params.get('errorText')}")
    return found


def check_page(browser, site: str, page: str, theme: str):
    """A page loads whole, from this host alone, with its formulas, diagrams and pictures drawn."""
    complaints(browser, site)
    state = show(browser, site + page, theme)
    assert complaints(browser, site) == []
    assert state["errors"] == 0, "a formula or a diagram that cannot be drawn"
    assert state["raw"] == [], "mathematics that was not recognised"
    assert state["empty"] == [], "pictures without a size"
    assert state["wide"] <= 0, "the page is wider than its window"


@pytest.fixture
def phone(browser):
    """Makes the browser as wide as a phone, until the test ends."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    width = "return document.documentElement.clientWidth"

    def narrow():
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        WebDriverWait(browser, 20, 0.1).until(lambda _: browser.execute_script(width) == metrics["width"])

    yield narrow
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, site, phone, page):
    """A page in light: whole, no wider than a phone, and a chapter's has its copy buttons and its source."""
    check_page(browser, site, page, "light")
    if (name := page.removesuffix(".html")) in CHAPTERS and name != "index":
        assert browser.find_elements(By.CSS_SELECTOR, "button.copybtn")
        assert browser.find_elements(By.CSS_SELECTOR, f"a[href*='{name}.ipynb']")
    phone()
    assert browser.execute_script(STATE)["wide"] <= 0, "the page is wider than a phone"


@pytest.mark.parametrize("page", PAGES)
def test_page_in_the_dark(browser, site, page):
    check_page(browser, site, page, "dark")


class Reader(HTMLParser):
    """The links of a page, and the places that one can point at."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.ids = set(), set()
        self.feed((HTML / page).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note an id, and the address of a link."""
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])


def test_links():
    """Every link within the site leads to a page, and to a place on it, that exist."""
    site, read, broken = "http://site/", {page: Reader(page) for page in PAGES}, []
    assert all(found.links and found.ids for found in read.values())
    for page, found in read.items():
        for link in found.links:
            url, anchor = urldefrag(urljoin(site + page, link))
            if not url.startswith(site):
                continue
            name = unquote(urlsplit(url).path).lstrip("/") or "index.html"
            if not (HTML / name).is_file():
                broken.append(f"{page}: {link}")
            elif anchor and name in read and unquote(anchor) not in read[name].ids:
                broken.append(f"{page}: {link}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_works_from_a_folder(browser, site, page):
    """Opened as a file, with no server, a page draws its formulas and diagrams too."""
    complaints(browser, site)
    assert show(browser, (HTML / page).as_uri())["errors"] == 0
    assert [text for text in complaints(browser, HTML.as_uri()) if "asks another host" in text] == []


def test_each_chapter_is_in_the_sidebar_and_on_a_card(browser, site):
    """The sidebar leads to every chapter, and so do the cards of the front page, in the same order."""
    show(browser, site)
    wanted = [name for name in CHAPTERS if name != "index"]
    for place in (".bd-sidebar-primary nav", "main .parts"):
        found = browser.find_elements(By.CSS_SELECTOR, f"{place} a")
        links = [urlsplit(link.get_attribute("href")).path.strip("/").removesuffix(".html") for link in found]
        assert [name for name in links if name in wanted] == wanted, place


def test_search_finds_each_chapter(browser, site):
    """Searching for a word of a chapter's title finds the chapter."""
    for name in CHAPTERS:
        title = (
            next(cell.source for cell in nbformat.read(NBS / f"{name}.ipynb", 4).cells)
            .splitlines()[0]
            .lstrip("# ")
        )
        word = max(re.findall(r"\w+", title), key=len)
        browser.get(f"{site}search.html?q={word}")

        def found(driver, page=f"/{name}.html") -> bool:
            results = driver.find_elements(By.CSS_SELECTOR, "#search-results li a")
            return any(urlsplit(result.get_attribute("href")).path == page for result in results)

        WebDriverWait(browser, 20, 0.1, ignored_exceptions=[Exception]).until(
            found, f"{word!r} does not find {name}"
        )


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name != "index"])
def test_chapter_can_be_downloaded(name):
    """A chapter hands out the notebook that it was made from."""
    handed = (HTML / "_sources" / f"{name}.ipynb").read_bytes()
    assert handed == (NBS / f"{name}.ipynb").read_bytes()
    nbformat.validate(nbformat.reads(handed.decode(), 4))
