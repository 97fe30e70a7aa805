// A line that can be anything: a lamp, a switch, and what the guest does with it.

import { lamp } from "./lamp.js";
import { toggle } from "./switch.js";

export function make({ label }, act) {
  const element = document.createElement("div");
  const light = lamp(label, "green");
  const turn = toggle(label, act);
  const direction = document.createElement("small");
  element.append(light.element, turn.element, direction);
  return {
    element,
    show(value) {
      light.show(value.level === 1);
      turn.show(value);
      direction.textContent = value.direction;
    },
  };
}
