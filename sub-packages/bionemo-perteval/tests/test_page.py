"""The report as a browser shows it. Needs chromium on the PATH."""

import json
import shutil
import subprocess

import pytest

from bionemo.perteval.report.page import html

WIDTHS = [390, 800, 1280]

# The page in frames of several widths; the parent measures them and writes what it saw into itself.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const page = PAGE, widths = WIDTHS, seen = [];
function sorted(table, name) {  // the orders of a column after each of two clicks on its head, and what the head says
  const head = [...table.tHead.rows[0].cells].find(cell => cell.textContent.startsWith(name));
  return [0, 1].map(() => {
    head.firstElementChild.click();
    const column = [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex].firstChild.data);
    return [head.getAttribute("aria-sort"), ...column];
  });
}
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.srcdoc = page;
  frame.onload = () => {
    const inside = frame.contentDocument, root = inside.documentElement;
    const wide = [...inside.body.querySelectorAll("*")].filter(element =>
      !element.closest(".scroll") && element.getBoundingClientRect().right > root.clientWidth + 1);
    seen.push({
      width: root.clientWidth,
      scrolls: root.scrollWidth,
      wide: wide.map(element => element.outerHTML.slice(0, 80)),
      broken: [...inside.images].filter(image => !image.complete || !image.naturalWidth).length,
      images: inside.images.length,
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith("data:")),
      cut: [...inside.querySelectorAll(".scroll")].filter(box => width >= 1280 && box.scrollWidth > box.clientWidth + 1)
        .map(box => box.getAttribute("aria-label")),
      sorted: [sorted(inside.querySelector("table"), "PDCorr"), sorted(inside.querySelector("table"), "arm")],
    });
    if (seen.length === widths.length) document.body.innerHTML = `<pre>${JSON.stringify(seen)}</pre>`;
  };
  document.body.append(frame);
}
</script></body>"""


@pytest.fixture(scope="module")
def shown(evaluation, tmp_path_factory):
    """What the page is like in frames of three widths, and what the browser's console said."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium on the PATH")
    folder = tmp_path_factory.mktemp("page")
    literal = json.dumps(html(evaluation)).replace("</", "<\\/")
    harness = HARNESS.replace("PAGE", literal, 1).replace("WIDTHS", str(WIDTHS), 1)
    (folder / "harness.html").write_text(harness, "utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom",
        f"file://{folder / 'harness.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "<pre>" in done.stdout, done.stderr[-2000:]
    frames = json.loads(done.stdout.split("<pre>")[1].split("</pre>")[0].replace("&lt;", "<").replace("&gt;", ">"))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {frame["width"]: frame for frame in frames}, console


def _number(text):
    return float(text.replace("−", "-"))


def test_a_head_sorts_its_table(shown):
    for frame in shown[0].values():
        numbers, names = frame["sorted"]
        for (order, *column), way in zip(numbers, ("descending", "ascending"), strict=True):
            assert order == way
            assert column[-1] == "–"  # the control mean, whose shift is zero, is last in both
            values = [_number(text) for text in column if text != "–"]
            assert values == sorted(values, reverse=way == "descending")
        assert names[0] == ["ascending", *sorted(names[0][1:], key=str.casefold)]
        assert names[1][1:] == names[0][:0:-1]


def test_the_page_shows_whole_at_every_width(shown):
    frames, console = shown
    assert console == []
    for frame in frames.values():
        assert frame["fetched"] == []
        assert frame["images"] > 10
        assert frame["broken"] == 0
        assert frame["scrolls"] <= frame["width"], frame["wide"]
        assert frame["wide"] == []
        assert frame["cut"] == []
