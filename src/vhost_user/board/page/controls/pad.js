// A surface for a mouse, a tablet or fingers. With the keyboard: arrows move, Enter and the space bar press.

const BUTTONS = ["left", "middle", "right", "side", "extra"];
const FRAME = 20; // milliseconds in which several moves are one
const DETENT = 100; // what a wheel turns by a click
const STEP = 10; // pixels for an arrow key
const ARROWS = { ArrowUp: [0, -STEP], ArrowDown: [0, STEP], ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0] };

export function make({ label, mode, sides }, act) {
  const element = document.createElement("div");
  const pad = document.createElement("div");
  const state = document.createElement("output");
  pad.className = "surface";
  pad.tabIndex = 0;
  pad.style.aspectRatio = `${sides[0]} / ${sides[1]}`;
  pad.setAttribute("role", "application");
  pad.setAttribute("aria-label", `${label}: arrows move, Enter presses`);
  element.append(pad, state);

  const wanted = new Map(); // what is to be sent next, by what it moves
  const soon = (what, value) => {
    if (wanted.size === 0) {
      setTimeout(() => {
        for (const each of wanted.values()) act(each);
        wanted.clear();
      }, FRAME);
    }
    wanted.set(what, value);
  };
  const now = (value) => {
    for (const each of wanted.values()) act(each); // in their order
    wanted.clear();
    act(value);
  };
  const moveBy = (dx, dy) => {
    const [x, y] = wanted.get("move")?.move ?? [0, 0];
    soon("move", { move: [x + Math.round(dx), y + Math.round(dy)] });
  };
  let at = [0.5, 0.5];
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    const part = (value, size) => Math.max(0, Math.min(1, value / size));
    return [part(event.clientX - box.x, box.width), part(event.clientY - box.y, box.height)];
  };
  const held = new Set();
  const hold = (button, down) => {
    if (down === held.has(button)) return;
    if (down) held.add(button);
    else held.delete(button);
    now({ button: [button, down ? 1 : 0] });
  };

  pad.addEventListener("contextmenu", (event) => event.preventDefault());
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    if (mode === "touches") now({ finger: [event.pointerId, ...place(event)] });
  });
  pad.addEventListener("pointermove", (event) => {
    if (mode === "moves") moveBy(event.movementX, event.movementY);
    else if (mode === "points") soon("at", { at: (at = place(event)) });
    else if (pad.hasPointerCapture(event.pointerId)) {
      soon(event.pointerId, { finger: [event.pointerId, ...place(event)] });
    }
  });
  pad.addEventListener("lostpointercapture", (event) => {
    if (mode === "touches") now({ finger: [event.pointerId] });
    else for (const button of held) hold(button, false);
  });
  if (mode !== "touches") {
    pad.addEventListener("mousedown", (event) => hold(BUTTONS[event.button], true));
    pad.addEventListener("mouseup", (event) => hold(BUTTONS[event.button], false));
    pad.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = Math.sign(event.deltaY) * Math.max(1, Math.round(Math.abs(event.deltaY) / DETENT));
        if (event.deltaY !== 0) now({ scroll: -lines });
      },
      { passive: false },
    );
    pad.addEventListener("keydown", (event) => {
      if (ARROWS[event.key]) {
        event.preventDefault();
        const [dx, dy] = ARROWS[event.key];
        if (mode === "moves") moveBy(dx, dy);
        else {
          at = [at[0] + dx / pad.clientWidth, at[1] + dy / pad.clientHeight].map((part) => Math.max(0, Math.min(1, part)));
          soon("at", { at });
        }
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        hold("left", true);
      }
    });
    pad.addEventListener("keyup", (event) => {
      if (event.key === "Enter" || event.key === " ") hold("left", false);
    });
    pad.addEventListener("blur", () => {
      for (const button of held) hold(button, false);
    });
  }
  return {
    element,
    show(value) {
      state.textContent = value;
    },
    forget() {
      held.clear();
      wanted.clear();
    },
  };
}
