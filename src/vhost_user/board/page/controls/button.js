// A button that is pressed for as long as it is held, by a pointer or a key.

import { DRIVEN } from "./switch.js";

const KEYS = new Set([" ", "Enter"]);

export function make({ label }, act) {
  const element = document.createElement("div");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  element.append(button);
  let held = false;
  const hold = (down) => {
    if (down !== held) {
      held = down;
      act(down ? 1 : 0);
    }
  };
  button.addEventListener("pointerdown", (event) => {
    if (event.button === 0) {
      button.setPointerCapture(event.pointerId);
      hold(true);
    }
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) {
    button.addEventListener(end, () => hold(false));
  }
  button.addEventListener("keydown", (event) => {
    if (KEYS.has(event.key) && !event.repeat) hold(true);
  });
  button.addEventListener("keyup", (event) => {
    if (KEYS.has(event.key)) hold(false);
  });
  return {
    element,
    show({ pressed, driven }) {
      if (driven) hold(false); // a button that cannot be pressed does not hear that it is let go
      button.setAttribute("aria-pressed", pressed);
      button.disabled = driven;
      button.title = driven ? DRIVEN : "";
    },
    forget() {
      held = false;
    },
  };
}
