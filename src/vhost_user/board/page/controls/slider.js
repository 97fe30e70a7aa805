// A number between two others.

const REST = 300; // milliseconds in which the hand that moves it goes before what the board says
const FRAME = 20; // milliseconds in which several moves are one

export function make({ id, label, low, high, step, unit }, act) {
  const element = document.createElement("div");
  const name = document.createElement("label");
  const range = document.createElement("input");
  const number = document.createElement("output");
  range.type = "range";
  [range.min, range.max, range.step] = [low, high, step];
  range.id = number.htmlFor = name.htmlFor = `slider ${id}`.replaceAll(" ", "-");
  name.textContent = label;
  element.append(name, range, number);
  let last = low;
  let moved = null; // what is to be sent next
  let rests = 0;
  const write = (value) => {
    number.textContent = unit ? `${value} ${unit}` : value;
    range.setAttribute("aria-valuetext", number.textContent);
  };
  range.addEventListener("input", () => {
    if (moved === null) {
      setTimeout(() => {
        act(moved);
        moved = null;
      }, FRAME);
    }
    moved = Number(range.value);
    write(moved);
    clearTimeout(rests);
    rests = setTimeout(() => {
      rests = 0;
      range.value = last;
      write(last);
    }, REST);
  });
  return {
    element,
    show(value) {
      last = value;
      if (rests === 0) {
        range.value = value;
        write(value);
      }
    },
  };
}
