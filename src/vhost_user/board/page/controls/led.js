// An LED with its name.

import { lamp } from "./lamp.js";

export function make({ label, colour }) {
  const element = document.createElement("div");
  const light = lamp(label, colour);
  const name = document.createElement("span");
  name.textContent = label;
  element.append(light.element, name);
  return { element, show: light.show };
}
