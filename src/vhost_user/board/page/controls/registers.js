// A table of registers; a number is set with Enter or by leaving its field, and Escape takes it back.

function hexadecimal({ size }, value) {
  const mask = (1n << BigInt(8 * size)) - 1n;
  return `0x${(BigInt(value) & mask).toString(16).padStart(2 * size, "0")}`;
}

function parse({ size, signed }, text) {
  const number = Number(text);
  // What is written in bits means the bits.
  if (signed && /^\s*0[xXbB]/.test(text) && number >= 2 ** (8 * size - 1)) return number - 2 ** (8 * size);
  return text.trim() !== "" && Number.isSafeInteger(number) ? number : null;
}

export function make({ label, registers }, act) {
  const element = document.createElement("div");
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  table.createCaption().textContent = label;
  for (const title of ["No.", "Register", "Value", "Number", "Guest"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = title;
    head.append(cell);
  }
  const body = table.createTBody();
  const rows = registers.map((register) => {
    const row = body.insertRow();
    row.insertCell().textContent = `0x${register.address.toString(16).padStart(2, "0")}`;
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = register.name;
    row.append(name);
    const field = document.createElement("input");
    field.type = "text";
    field.size = 2 * register.size + 4;
    field.spellcheck = false;
    field.autocomplete = "off";
    field.setAttribute("aria-label", register.name);
    row.insertCell().append(field);
    const number = document.createElement("output");
    row.insertCell().append(number);
    row.insertCell().textContent = register.writable ? "reads and writes" : "reads";
    let last = 0;
    let dirty = false;
    const show = (value) => {
      last = value;
      number.textContent = value;
      if (!dirty) field.value = hexadecimal(register, value);
    };
    const leave = () => {
      dirty = false;
      field.removeAttribute("aria-invalid");
      field.value = hexadecimal(register, last);
    };
    field.addEventListener("input", () => {
      dirty = true;
    });
    field.addEventListener("change", () => {
      const value = parse(register, field.value);
      if (value === null) {
        field.setAttribute("aria-invalid", "true");
        return;
      }
      act([register.name, value]);
      leave();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
    });
    return show;
  });
  element.append(table);
  return {
    element,
    show(values) {
      values.forEach((value, index) => rows[index](value));
    },
  };
}
