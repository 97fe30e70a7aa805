// Words, or rows of bytes.

export function make({ label }) {
  const element = document.createElement("div");
  const name = document.createElement("span");
  const text = document.createElement("output");
  name.textContent = label;
  text.setAttribute("aria-label", label);
  element.append(name, text);
  return {
    element,
    show(value) {
      text.textContent = value;
    },
  };
}
