// A terminal: shows what the guest writes, and sends what is typed into it.

import { Screen } from "../screen.js";

const SETTLED = 150; // milliseconds after which a window that is resized has its size
const PROBE = 10; // characters whose width is measured
const ARROWS = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };
const KEYS = {
  Enter: "\r",
  Backspace: "\x7f",
  Tab: "\t",
  Escape: "\x1b",
  Insert: "\x1b[2~",
  Delete: "\x1b[3~",
  PageUp: "\x1b[5~",
  PageDown: "\x1b[6~",
};

// What a key means to the guest; undefined for one that only types a character, which comes as input.
function meaning(event, applicationKeys) {
  if (event.isComposing || event.metaKey || (event.key === "Tab" && event.shiftKey)) return undefined;
  if (event.ctrlKey && event.shiftKey) return undefined; // copy and paste
  if (event.ctrlKey && !event.altKey) {
    const code = event.key.length === 1 ? event.key.toUpperCase().charCodeAt(0) : 0;
    if (code >= 0x40 && code < 0x60) return String.fromCharCode(code - 0x40);
    if (event.key === " ") return "\0";
  }
  if (ARROWS[event.key]) return `\x1b${applicationKeys ? "O" : "["}${ARROWS[event.key]}`;
  if (KEYS[event.key]) return KEYS[event.key];
  return event.altKey && !event.ctrlKey && event.key.length === 1 ? `\x1b${event.key}` : undefined;
}

// One row as text with its appearances; what is blank at its end is left out, so that nobody copies it.
function draw(row, line, cursor) {
  const parts = [];
  let run = "";
  let style = null;
  const end = () => {
    if (run === "") return;
    const part = document.createElement("span");
    part.className = style;
    part.textContent = run;
    parts.push(part);
    run = "";
  };
  const last = line.findLastIndex(([character, its], x) => character !== " " || its !== "" || x === cursor);
  line.slice(0, last + 1).forEach(([character, its], x) => {
    const now = x === cursor ? `${its} cursor` : its;
    if (now !== style) {
      end();
      style = now;
    }
    run += character;
  });
  end();
  row.replaceChildren(...parts);
}

export function make({ id, label }, act) {
  const element = document.createElement("div");
  const view = document.createElement("div");
  const past = document.createElement("div"); // rows that have left the screen
  const present = document.createElement("div");
  const keyboard = document.createElement("textarea");
  const hint = document.createElement("small");
  const probe = document.createElement("span");
  view.className = "view";
  probe.className = "probe";
  probe.textContent = "x".repeat(PROBE);
  hint.id = `hint ${id}`.replaceAll(" ", "-");
  hint.textContent = `${label}: click it and type. Shift+Tab leaves it, Ctrl+Shift+C copies.`;
  keyboard.className = "keyboard";
  keyboard.rows = 1;
  for (const [name, value] of Object.entries({ autocapitalize: "off", autocomplete: "off", spellcheck: "false" })) {
    keyboard.setAttribute(name, value);
  }
  keyboard.setAttribute("aria-label", `Terminal ${label}`);
  keyboard.setAttribute("aria-describedby", hint.id);
  view.append(past, present, probe);
  element.append(view, keyboard, hint);

  let screen = new Screen(80, 25);
  let decoder = new TextDecoder();
  let left = 0; // rows of the past that are drawn

  const render = () => {
    const atEnd = view.scrollTop + view.clientHeight >= view.scrollHeight - 4;
    const gone = screen.left - left;
    for (const line of gone > 0 ? screen.history.slice(-gone) : []) {
      const row = document.createElement("div");
      draw(row, line, -1);
      past.append(row);
    }
    left = screen.left;
    while (past.childElementCount > screen.history.length) past.firstElementChild.remove();
    while (present.childElementCount < screen.rows) present.append(document.createElement("div"));
    while (present.childElementCount > screen.rows) present.lastElementChild.remove();
    screen.lines.forEach((line, y) => draw(present.children[y], line, screen.cursor && y === screen.y ? screen.x : -1));
    if (atEnd) view.scrollTop = view.scrollHeight;
  };

  const type = (keys) => {
    if (keys !== "") act({ keys });
    view.scrollTop = view.scrollHeight;
  };
  keyboard.addEventListener("keydown", (event) => {
    const keys = meaning(event, screen.applicationKeys);
    if (keys !== undefined) {
      event.preventDefault();
      type(keys);
    }
  });
  keyboard.addEventListener("input", (event) => {
    if (event.isComposing) return;
    type(keyboard.value.replaceAll("\n", "\r"));
    keyboard.value = "";
  });
  keyboard.addEventListener("compositionend", () => {
    type(keyboard.value);
    keyboard.value = "";
  });
  view.addEventListener("mouseup", () => {
    if (getSelection().isCollapsed) keyboard.focus({ preventScroll: true });
  });

  let size = "";
  let settling = 0;
  const measure = () => {
    const { width, height } = probe.getBoundingClientRect();
    const cols = Math.max(2, Math.min(500, Math.floor((view.clientWidth * PROBE) / width)));
    const rows = Math.max(2, Math.min(200, Math.floor(view.clientHeight / height)));
    if (width > 0 && `${cols} ${rows}` !== size) {
      size = `${cols} ${rows}`;
      act({ size: [cols, rows] });
    }
  };
  new ResizeObserver(() => {
    clearTimeout(settling);
    settling = setTimeout(measure, SETTLED);
  }).observe(view);

  return {
    element,
    show({ data, lost, size: told }) {
      if (told !== undefined && told[0] >= 2 && told[1] >= 2) screen.resize(...told);
      if (lost > 0) screen.feed(`\r\n[${lost} bytes are left out]\r\n`);
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      screen.feed(decoder.decode(bytes, { stream: true }));
      render();
    },
    forget() {
      screen = new Screen(screen.cols, screen.rows);
      decoder = new TextDecoder();
      left = 0;
      past.replaceChildren();
    },
  };
}
