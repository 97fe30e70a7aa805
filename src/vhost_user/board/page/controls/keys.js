// A keyboard: what is typed while it has the focus is pressed on the board.

import { lamp } from "./lamp.js";

export function make({ label }, act) {
  const element = document.createElement("div");
  const field = document.createElement("div");
  const pressed = document.createElement("output");
  const lights = document.createElement("span");
  field.className = "field";
  field.tabIndex = 0;
  field.setAttribute("role", "application");
  field.setAttribute("aria-label", `${label}: what is typed here goes to the guest, Shift+Tab leaves`);
  field.textContent = "Click and type. Shift+Tab leaves.";
  element.append(field, pressed, lights);
  const held = new Set();
  const leave = () => {
    for (const code of held) act([code, 0]);
    held.clear();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.shiftKey) return;
    event.preventDefault();
    if (event.code === "" || held.has(event.code)) return;
    held.add(event.code);
    act([event.code, 1]);
  });
  field.addEventListener("keyup", (event) => {
    event.preventDefault();
    if (held.delete(event.code)) act([event.code, 0]);
  });
  field.addEventListener("blur", leave);
  const lamps = new Map();
  return {
    element,
    show(value) {
      pressed.textContent = value.pressed.join(" + ");
      for (const [name, lit] of Object.entries(value.leds)) {
        if (!lamps.has(name)) {
          const light = lamp(name, "green");
          light.element.title = name;
          lights.append(light.element);
          lamps.set(name, light);
        }
        lamps.get(name).show(lit);
      }
    },
    forget() {
      held.clear();
    },
  };
}
