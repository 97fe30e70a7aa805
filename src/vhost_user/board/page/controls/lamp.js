// A lamp, as a part of other controls.

export function lamp(label, colour) {
  const element = document.createElement("span");
  element.className = "lamp";
  element.dataset.colour = colour;
  element.setAttribute("role", "img");
  return {
    element,
    show(lit) {
      element.classList.toggle("lit", lit);
      element.setAttribute("aria-label", `${label}: ${lit ? "on" : "off"}`);
    },
  };
}
