// The page of a board: draws what the server describes, shows what it tells, sends what somebody moves.
//
// Each kind of control is a file of its own, controls/KIND.js, with a function
//   make(description, act) -> { element, show(value), forget() }
// show() gets each value that the server tells; act(value) asks it to move the control. forget(), which not every
// control has, is called when another program may be at the other end.

const AGAIN = 1000; // milliseconds until a connection that was lost is tried again

const byId = (id) => document.getElementById(id);
let shown = new Map(); // the controls by their names
let drawn = ""; // what they were made of
let socket = null;

function act(control, value) {
  byId("refusal").textContent = "";
  if (socket !== null && socket.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify({ control, value }));
  }
}

function say(text, live) {
  byId("connection").textContent = text;
  document.body.classList.toggle("away", !live);
}

async function draw(board, attach) {
  document.title = board.title;
  byId("title").textContent = board.title;
  byId("attach").hidden = !attach;
  byId("lines").textContent = attach;
  const made = JSON.stringify(board);
  if (made === drawn) {
    for (const control of shown.values()) control.forget?.();
    return;
  }
  const panels = byId("panels");
  const controls = new Map();
  panels.replaceChildren();
  for (const panel of board.panels) {
    const section = document.createElement("section");
    const title = document.createElement("h2");
    title.id = `panel ${panel.name}`.replaceAll(" ", "-");
    title.textContent = panel.title;
    section.dataset.panel = panel.name;
    section.setAttribute("aria-labelledby", title.id);
    const kind = document.createElement("small");
    kind.textContent = ` ${panel.device}`;
    title.append(kind);
    section.append(title);
    for (const description of panel.controls) {
      const { make } = await import(`./controls/${description.kind}.js`);
      const control = make(description, (value) => act(description.id, value));
      control.element.dataset.control = description.id;
      control.element.classList.add("control", description.kind);
      section.append(control.element);
      controls.set(description.id, control);
    }
    panels.append(section);
  }
  shown = controls;
  drawn = made;
}

function connect() {
  const address = new URL("live", location.href);
  address.protocol = "ws:";
  const mine = new WebSocket(address);
  socket = mine;
  // One message after the other: values come when there is something that shows them.
  let turn = Promise.resolve();
  mine.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    turn = turn.then(async () => {
      if (message.board) {
        await draw(message.board, message.attach);
        say("live", true);
      }
      for (const [id, value] of Object.entries(message.values ?? {})) shown.get(id)?.show(value);
      if (message.refused !== undefined) byId("refusal").textContent = message.refused;
    });
  });
  mine.addEventListener("close", (event) => {
    const ended = event.code === 1001; // the next board will have another address
    say(ended ? "the board has ended" : "not connected, trying again", false);
    if (!ended) setTimeout(connect, AGAIN);
  });
}

connect();
