// `d2rkit lab --present`: one section of a notebook on the screen at a time, in the JupyterLab that runs it, so that
// every panel keeps its kernel. Which cell begins a slide, and which is left out, stands in the cells' metadata
// (`slideshow.slide_type`, as nbconvert reads it); presenting.py writes it into the lecturer's copies.
//
// JupyterLab loads this file as a prebuilt extension. It is written by hand and needs no bundler: it asks JupyterLab
// for nothing but the shell, the commands and the notebook on the screen.

const HOME = document.currentScript.src;
const ROOM = [1040, 680]; // CSS pixels that a panel needs; on a larger screen everything grows

const FORWARD = ["PageDown", "ArrowRight"];
const BACK = ["PageUp", "ArrowLeft"];
const CONTROLS = "input, select, textarea, [role=slider], [role=radio], [contenteditable=true]"; // that use arrows
const TEXT = "input:not([type=radio], [type=checkbox], [type=range]), select, textarea, [contenteditable=true]";

class Slides {
  constructor(app) {
    this.app = app;
    this.seen = new WeakMap(); // notebook panel -> where it stands
    this.bar = this.makeBar();
    document.body.append(this.bar);
    window.addEventListener("keydown", (event) => this.onKey(event), { capture: true }); // before JupyterLab's own
    window.addEventListener("resize", () => this.fit());
    app.shell.currentChanged?.connect(() => this.follow());
    this.follow();
  }

  // -- the notebook on the screen -----------------------------------------------------------------------------
  async follow() {
    const panel = this.app.shell.currentWidget;
    if (!panel?.sessionContext || !panel.content?.widgets) return this.leave();
    await panel.context.ready;
    if (panel !== this.app.shell.currentWidget) return; // another one came in the meantime
    const first = !this.seen.has(panel);
    if (first) {
      this.seen.set(panel, { at: 0, on: true });
      // A cell that is not drawn cannot be shown as a part of a slide. This is the default that presenting/labconfig
      // sets, over which a setting of the user's own may go.
      const { notebookConfig } = panel.content;
      if (notebookConfig.windowingMode !== "none")
        panel.content.notebookConfig = { ...notebookConfig, windowingMode: "none" };
      panel.sessionContext.statusChanged.connect(() => this.label());
    }
    if (this.state(panel).on) this.enter(panel);
    if (first) {
      await panel.sessionContext.ready;
      if (panel !== this.panel) return;
      this.app.commands.execute("notebook:run-all-cells").then((ran) => {
        this.state(panel).failed = ran === false;
        this.label();
      });
      this.show(this.state().at); // running has moved the active cell
    }
  }

  state(panel = this.panel) {
    return this.seen.get(panel);
  }

  slides() {
    const found = [];
    for (const cell of this.panel.content.widgets) {
      const type = cell.model.getMetadata("slideshow")?.slide_type ?? "-";
      if (type === "slide" || !found.length) found.push([]);
      if (type !== "skip") found.at(-1).push(cell);
    }
    return found.filter((cells) => cells.length);
  }

  enter(panel) {
    this.leave();
    this.panel = panel;
    this.state().on = true;
    document.body.classList.add("d2rkit-slides");
    panel.addClass("d2rkit-slides-panel");
    // What lies around it neither cuts it off nor covers it.
    for (let node = panel.node.parentElement; node && node !== document.body; node = node.parentElement)
      node.classList.add("d2rkit-slides-way");
    this.fit();
    this.show(this.state().at);
  }

  /** JupyterLab as it is, with the whole notebook. */
  leave() {
    if (this.panel && !this.panel.isDisposed) {
      this.panel.removeClass("d2rkit-slides-panel");
      for (const cell of this.panel.content.widgets) cell.removeClass("d2rkit-slides-away");
    }
    for (const node of document.querySelectorAll(".d2rkit-slides-way")) node.classList.remove("d2rkit-slides-way");
    document.body.classList.remove("d2rkit-slides");
    this.panel = null;
    window.dispatchEvent(new Event("resize")); // JupyterLab lays out what was hidden
    this.label();
  }

  // -- slide by slide -----------------------------------------------------------------------------------------
  show(number, end = false) {
    const slides = this.slides();
    const at = Math.max(0, Math.min(number, slides.length - 1));
    const here = new Set(slides[at]);
    this.state().at = at;
    for (const cell of this.panel.content.widgets) cell.toggleClass("d2rkit-slides-away", !here.has(cell));
    const { content } = this.panel;
    content.mode = "command";
    content.deselectAll();
    content.activeCellIndex = content.widgets.indexOf(slides[at][0]);
    const scroller = this.scroller();
    scroller.scrollTop = end ? scroller.scrollHeight : 0;
    content.node.focus({ preventScroll: true });
    this.label();
  }

  /** The section after (by = 1) or before (-1); page: first the rest of this one, if it is higher than the screen. */
  go(by, page = false) {
    const scroller = this.scroller();
    const rest = by > 0 ? scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop : scroller.scrollTop;
    const next = this.state().at + by;
    if (page && rest > 8) scroller.scrollTop += by > 0 ? this.onward(scroller) : -0.85 * scroller.clientHeight;
    else if (next >= 0 && next < this.slides().length) this.show(next, page && by < 0);
  }

  /** How far to the next thing that is not wholly on the screen: so that no panel is cut in two that fits. */
  onward(scroller) {
    const { top, bottom } = scroller.getBoundingClientRect();
    for (const cell of this.slides()[this.state().at]) {
      const box = cell.node.getBoundingClientRect();
      if (box.height && box.bottom > bottom + 4 && box.top > top + 40)
        return Math.min(box.top - top - 8, 0.9 * (bottom - top));
    }
    return 0.85 * (bottom - top);
  }

  scroller() {
    return this.panel.node.querySelector(".jp-WindowedPanel-outer") ?? this.panel.content.node;
  }

  fit() {
    const scale = Math.min(window.innerWidth / ROOM[0], window.innerHeight / ROOM[1]);
    document.body.style.setProperty("--d2rkit-zoom", Math.max(1, scale).toFixed(3));
  }

  toggleCode() {
    const cells = this.panel.content.widgets.filter((cell) => cell.model.type === "code");
    const hide = cells.some((cell) => !cell.inputHidden);
    for (const cell of cells) cell.inputHidden = hide;
    this.label();
  }

  // -- keys -----------------------------------------------------------------------------------------------------
  onKey(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element)) return;
    if (!this.panel || target.closest(".jp-Dialog, .lm-Menu")) return;
    const way = FORWARD.includes(key) ? 1 : BACK.includes(key) ? -1 : 0;
    // Page keys, which remote controls send, turn pages everywhere; arrows belong to the control that has the focus.
    const mine = key.startsWith("Page") ? !target.closest(".cm-editor") : !target.closest(CONTROLS);
    if (way && mine) this.go(way, key.startsWith("Page"));
    else if ((key === "ArrowDown" || key === "ArrowUp") && !target.closest(CONTROLS))
      this.scroller().scrollBy({ top: key === "ArrowDown" ? 90 : -90 });
    else {
      // Commands of JupyterLab that a slip of the finger must not give: "d d" deletes a cell, Enter edits it.
      const letter = key.length === 1 && key !== " " && !target.closest(TEXT);
      if (letter || (key === "Enter" && !target.closest(`${CONTROLS}, button, a, summary`)))
        event.stopImmediatePropagation();
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  // -- the bar --------------------------------------------------------------------------------------------------
  makeBar() {
    const bar = document.createElement("nav");
    bar.className = "d2rkit-slides-bar";
    bar.setAttribute("aria-label", "Slides");
    const button = (name, words, help, act) => {
      const made = document.createElement("button");
      made.textContent = words;
      made.title = help;
      made.setAttribute("aria-label", help);
      made.addEventListener("click", act);
      bar.append(made);
      this[name] = made;
    };
    button("back", "‹", "Section before (← or Page Up)", () => this.go(-1));
    this.count = document.createElement("span");
    this.words = document.createElement("span");
    this.words.className = "d2rkit-slides-words";
    this.words.setAttribute("role", "status");
    bar.append(this.count);
    button("on", "›", "Next section (→ or Page Down)", () => this.go(1));
    bar.append(this.words);
    button("code", "Code", "Show or hide the code", () => this.toggleCode());
    button("out", "Notebook", "Leave the slides: the whole notebook in JupyterLab", () => {
      this.state().on = false;
      this.leave();
    });
    button("in", "Slides", "Back to the slides", () => {
      const panel = this.app.shell.currentWidget;
      if (this.seen.has(panel)) this.enter(panel);
    });
    return bar;
  }

  label() {
    this.bar.classList.toggle("d2rkit-slides-out", !this.panel);
    this.bar.hidden = !this.panel && !this.seen.has(this.app.shell.currentWidget);
    if (!this.panel) return;
    const slides = this.slides();
    const { at, failed } = this.state();
    const source = slides[at][0].model.sharedModel.getSource();
    const heading = (source.match(/^#{1,6} +(.*)$/m)?.[1] ?? "").replace(/[*`$\\]/g, "");
    const computing = this.panel.sessionContext.session?.kernel?.status === "busy";
    const busy = computing ? "computing… " : failed ? "A cell failed, see Notebook. " : "";
    this.count.textContent = `${at + 1} / ${slides.length}`;
    this.words.textContent = busy + heading;
    this.back.disabled = at === 0;
    this.on.disabled = at === slides.length - 1;
    const cells = this.panel.content.widgets.filter((cell) => cell.model.type === "code");
    this.code.setAttribute("aria-pressed", String(cells.some((cell) => !cell.inputHidden)));
  }
}

const plugin = {
  id: "d2rkit-slides:plugin",
  description: "A notebook section by section",
  autoStart: true,
  activate: (app) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("slides.css", HOME).href;
    document.head.append(style);
    app.restored.then(() => new Slides(app));
  },
};

// What a bundler would write: JupyterLab asks the container for the module, and the module for its plugin.
window._JUPYTERLAB ??= {};
window._JUPYTERLAB["d2rkit-slides"] = { init: () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
