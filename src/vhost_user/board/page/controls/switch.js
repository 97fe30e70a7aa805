// A switch: two levels that last.

export const DRIVEN = "The guest drives this line. What is set here is seen when it lets go of it.";

export function toggle(label, act) {
  const element = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.setAttribute("role", "switch");
  box.setAttribute("aria-label", label);
  const name = document.createElement("span");
  name.textContent = label;
  element.append(box, name);
  let last = false;
  box.addEventListener("change", () => {
    act(box.checked ? 1 : 0);
    box.checked = last; // it turns when the board says so
  });
  return {
    element,
    show({ level, driven }) {
      last = box.checked = level === 1;
      box.disabled = driven;
      element.title = driven ? DRIVEN : "";
    },
  };
}

export function make({ label }, act) {
  const { element: content, show } = toggle(label, act);
  const element = document.createElement("div");
  element.append(content);
  return { element, show };
}
