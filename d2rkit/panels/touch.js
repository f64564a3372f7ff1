// What ipywidgets leave out, for the panel that this widget lies in: names for the handles of sliders, buttons that
// copy, and pictures whose parts can be dragged. It needs no network, and a panel without it lacks only these.

const REACH = 14; // CSS pixels between the pointer and what it grasps
const EDGE = 9; // border and padding of the picture's paper

export default {
  render({ model, el }) {
    const ending = new AbortController();
    const timer = setInterval(() => {
      const panel = el.closest(".d2rkit-panel"); // not there before the page has taken the widget in
      if (!panel) return;
      clearInterval(timer);
      enliven(panel, model, ending.signal);
    }, 50);
    return () => {
      clearInterval(timer);
      ending.abort();
    };
  },
};

function enliven(panel, model, signal) {
  panel.classList.add("d2rkit-alive");
  name(panel);
  const watch = new MutationObserver(() => name(panel));
  watch.observe(panel, { childList: true, subtree: true });
  signal.addEventListener("abort", () => watch.disconnect());
  panel.addEventListener("click", (event) => copy(panel, event.target.closest("[data-copy]")), { signal });
  const place = panel.querySelector(".d2rkit-picture");
  if (place) drag(place, model, signal);
}

// -- names ------------------------------------------------------------------------------------------------------
function name(panel) {
  for (const handle of panel.querySelectorAll("[role=slider]:not([aria-label])")) {
    const label = handle.closest(".widget-slider, .widget-inline-hbox")?.querySelector(".widget-label");
    if (label?.textContent) handle.setAttribute("aria-label", label.textContent);
  }
  for (const words of panel.querySelectorAll(".d2rkit-words .widget-html-content:not([tabindex])")) {
    words.tabIndex = 0; // its tables may have to be scrolled, by keyboard too
    words.setAttribute("role", "region");
    words.setAttribute("aria-label", "In words and numbers");
  }
  const icons = { "fa-play": "Play or pause", "fa-pause": "Play or pause", "fa-stop": "Stop", "fa-retweet": "Repeat" };
  for (const button of panel.querySelectorAll(".widget-play button:not([aria-label])")) {
    const icon = Object.keys(icons).find((name) => button.querySelector(`.${name}`));
    if (icon) button.setAttribute("aria-label", icons[icon]);
  }
}

// -- copies -----------------------------------------------------------------------------------------------------
async function copy(panel, button) {
  if (!button) return;
  const words = button.textContent;
  try {
    if (button.dataset.copy === "picture") {
      const [head, code] = panel.querySelector(".d2rkit-picture img").src.split(",");
      const bytes = Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
      const type = head.slice(5).split(";")[0];
      await navigator.clipboard.write([new ClipboardItem({ [type]: new Blob([bytes], { type }) })]);
    } else {
      const table = panel.querySelectorAll(".d2rkit-words table")[Number(button.dataset.copy)];
      const rows = [...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()).join("\t"));
      await navigator.clipboard.writeText(rows.join("\n"));
    }
    button.textContent = "Copied";
  } catch (error) {
    button.textContent = "The browser did not allow it";
  }
  setTimeout(() => (button.textContent = words), 1500);
}

// -- dragging ---------------------------------------------------------------------------------------------------
// Things lie at (x, y) in shares of the picture's width and height, from its top left corner. Every move is a message;
// the next one waits until Python has answered, and only the latest is kept, so a slow panel is never flooded.
function drag(place, model, signal) {
  let held = null; // what the pointer holds
  let waiting = false; // for Python's answer
  let next = null; // the latest message that has not been sent

  const rings = document.createElement("div");
  rings.className = "d2rkit-rings";
  rings.setAttribute("aria-hidden", "true"); // the sliders and fields say and do the same
  place.append(rings);
  signal.addEventListener("abort", () => rings.remove());

  // Slides are zoomed: a pixel of the page is then not one of the panel's style.
  const zoom = () => place.getBoundingClientRect().width / place.offsetWidth || 1;
  const box = () => {
    const r = place.querySelector("img")?.getBoundingClientRect();
    const edge = EDGE * zoom();
    return r && { left: r.left + edge, top: r.top + edge, width: r.width - 2 * edge, height: r.height - 2 * edge };
  };
  const at = (event) => {
    const b = box();
    return b && { x: (event.clientX - b.left) / b.width, y: (event.clientY - b.top) / b.height };
  };
  const nearest = (event) => {
    const b = box();
    let best = null;
    for (const thing of b ? model.get("things") : []) {
      const away = Math.hypot(event.clientX - b.left - thing.x * b.width, event.clientY - b.top - thing.y * b.height);
      if (away <= (best ? best.away : REACH)) best = { ...thing, away };
    }
    return best;
  };
  const area = (p) =>
    model.get("areas").find((a) => p.x >= a.left && p.x <= a.left + a.width && p.y >= a.top && p.y <= a.top + a.height);

  function ring(thing, strong) {
    const b = box();
    const outer = place.getBoundingClientRect();
    const mark = document.createElement("div");
    mark.className = strong ? "d2rkit-ring d2rkit-held" : "d2rkit-ring";
    mark.style.left = `${(b.left - outer.left + thing.x * b.width) / zoom()}px`;
    mark.style.top = `${(b.top - outer.top + thing.y * b.height) / zoom()}px`;
    rings.append(mark);
  }
  function draw(hovered) {
    rings.replaceChildren();
    if (!box()) return;
    for (const thing of model.get("things")) if (thing.ring && thing.name !== held?.name) ring(thing, false);
    if (held ?? hovered) ring(held ?? hovered, Boolean(held));
  }

  function send(message) {
    next = message;
    if (!waiting) flush();
  }
  function flush() {
    waiting = Boolean(next);
    if (next) model.send({ ...next, number: model.get("answered") + 1 });
    next = null;
  }

  place.addEventListener("pointerdown", (event) => {
    const p = at(event);
    if (event.button !== 0 || !p || model.get("action") === "none") return;
    const here = area(p);
    if (model.get("action") === "add" && here) {
      event.preventDefault();
      send({ kind: "add", x: p.x, y: p.y });
      return;
    }
    const found = nearest(event);
    if (!found) return;
    event.preventDefault(); // no dragging of the image itself
    if (model.get("action") === "remove") {
      send({ kind: "remove", name: found.name, x: p.x, y: p.y });
      return;
    }
    held = { ...found };
    place.setPointerCapture(event.pointerId);
    draw();
  }, { signal });
  place.addEventListener("pointermove", (event) => {
    const p = at(event);
    if (!p) return;
    if (held) {
      Object.assign(held, p);
      if (model.get("live")) send({ kind: "move", name: held.name, x: p.x, y: p.y, done: false });
      draw();
    } else {
      const action = model.get("action");
      const found = action === "add" ? null : nearest(event);
      place.style.cursor = found ? "grab" : action === "add" && area(p) ? "crosshair" : "";
      draw(found);
    }
  }, { signal });
  const release = (event) => {
    if (!held) return;
    const p = at(event) ?? held;
    send({ kind: "move", name: held.name, x: p.x, y: p.y, done: true });
    held = null;
    draw();
  };
  place.addEventListener("pointerup", release, { signal });
  place.addEventListener("pointercancel", release, { signal });
  place.addEventListener("pointerleave", () => held || draw(), { signal });
  place.addEventListener("dragstart", (event) => event.preventDefault(), { signal });

  const answered = () => flush();
  const moved = () => draw();
  model.on("change:answered", answered);
  model.on("change:things", moved);
  const size = new ResizeObserver(() => draw());
  size.observe(place);
  signal.addEventListener("abort", () => {
    model.off("change:answered", answered);
    model.off("change:things", moved);
    size.disconnect();
  });
  draw();
}
