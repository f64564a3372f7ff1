"""How fast the panels answer in the browser: from the key to the changed words, in JupyterLab and Chromium.

    python benchmarks/panels_browser.py                # all of them
    python benchmarks/panels_browser.py --only 02 --to panels.json

For each notebook, over 30 moves of a slider by the arrow keys, as the page's own clock sees them: the median and the
slowest; how long until the panel says that it computes ("told", to be at most 100 ms); and the CPU time of kernel,
server and browser together, which a busy machine spoils less. Limits: 200 ms (analytic), 1 s (attack), 1.5 s
(retraining). Needs what the browser tests need: pip install -e '.[lab,dev]', and chromium.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from tests.browser.driver import Lab, chromium_page, row_of, running_lab, settle

MOVES, WARM = 30, 3
# notebook -> (panel's heading, slider, limit in seconds)
PANELS = {
    "01_function_space": ("Divergence explorer", "Guide: P(A)", 0.2),
    "02_adversarial_examples": ("Adversarial image", "ε in 1/255", 1.0),
    "03_guide_and_target": ("Guide and target in the plane", "Weight: adversarial", 1.5),
    "04_collaborative_generation": ("Three attacks", "ε in 1/255", 1.0),
}
# The clock starts with the key, is read when the panel says that it computes, and stops when the first sentence is
# another one.
CLOCK = """panel => {
  window.d2rkitClock = {};
  const said = () => panel.querySelector('p[role=status]')?.textContent;
  panel.addEventListener('keydown', () => window.d2rkitClock = {began: performance.now(), said: said()}, true);
  new MutationObserver(() => {
    const clock = window.d2rkitClock;
    if (clock.began && !clock.told && panel.querySelector('.d2rkit-waiting'))
      clock.told = performance.now() - clock.began;
    if (clock.began && !clock.took && said() && said() !== clock.said) clock.took = performance.now() - clock.began;
  }).observe(panel, {childList: true, subtree: true, characterData: true, attributeFilter: ['class']});
}"""


def cpu_seconds() -> float:
    """Of all processes that this one has started and that are still there."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:  # it ended
            pass
    return total


def measure(lab: Lab, name: str) -> dict[str, object]:
    heading, slider, limit = PANELS[name]
    lab.open_and_run(name)
    panel = lab.panel(heading)
    panel.evaluate(CLOCK)
    row_of(panel, slider).get_by_role("slider", name=slider).focus()
    took, told, cpu = [], [], []
    for move in range(WARM + MOVES):
        before = cpu_seconds()
        lab.page.keyboard.press("ArrowRight" if move % 4 < 2 else "ArrowLeft")  # and back: panels may open at 0
        lab.page.wait_for_function("window.d2rkitClock.took", polling=20)
        settle(panel)
        if move >= WARM:
            clock = lab.page.evaluate("window.d2rkitClock")
            took.append(clock["took"] / 1000)
            told.append(clock.get("told", clock["took"]) / 1000)
            cpu.append(cpu_seconds() - before)
    lab.close_all()
    seconds = statistics.median(took)
    return {
        "notebook": name, "median_s": round(seconds, 3), "slowest_s": round(max(took), 3), "limit_s": limit,
        "told_s": round(statistics.median(told), 3), "cpu_s": round(statistics.median(cpu), 3),
        "in_time": seconds <= limit,
    }  # fmt: skip


def main() -> int:
    parser = results.parser(__doc__)
    parser.add_argument("--only", default="", help="only notebooks whose name contains this")
    options = parser.parse_args()
    names, rows = [name for name in PANELS if options.only in name], []
    print(f"{'notebook':30s} {'median':>8s} {'slowest':>8s} {'told':>8s} {'CPU':>8s} {'limit':>8s}")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder), names) as address,
        chromium_page(viewport={"width": 1280, "height": 800}) as page,
    ):
        lab = Lab(page, address)
        for name in names:
            rows.append(row := measure(lab, name))
            times = (f"{1000 * row[key]:6.0f}ms" for key in ("median_s", "slowest_s", "told_s", "cpu_s", "limit_s"))
            print(f"{name:30s} {' '.join(times)} {'ok' if row['in_time'] else 'NO'}", flush=True)
    results.write(options.to, moves=MOVES, notebooks=rows)
    return 0 if all(row["in_time"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
