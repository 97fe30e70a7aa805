// What a terminal shows: rows of cells, and the control sequences that Linux's own "linux" and "vt100" use.
//
// Nothing here knows of the page. It answers no questions (where is the cursor, who are you): several pages may show
// one terminal, and each would answer. Every character is one cell wide.

const HISTORY = 1000; // rows that have left the screen at its top and are kept
const TAB = 8;
const PLAIN = "";

export class Screen {
  constructor(cols, rows) {
    this.history = [];
    this.left = 0; // rows that have left the screen so far
    this.state = this.text; // what the next character means
    this.start(cols, rows);
  }

  start(cols, rows) {
    [this.cols, this.rows] = [cols, rows];
    this.lines = Array.from({ length: rows }, () => this.blank());
    this.other = null; // the lines of the normal screen while the alternate one is shown
    [this.x, this.y, this.saved] = [0, 0, [0, 0, PLAIN]];
    [this.top, this.bottom] = [0, rows - 1];
    this.look = { colour: "", ground: "", bold: false, underline: false, inverse: false };
    this.style = PLAIN;
    this.cursor = true; // it is shown
    this.applicationKeys = false;
    this.wraps = false; // the next character begins a new line
  }

  blank() {
    return Array.from({ length: this.cols }, () => [" ", PLAIN]);
  }

  resize(cols, rows) {
    if (cols === this.cols && rows === this.rows) return;
    this.cols = cols;
    const fit = (line) => {
      line.length = Math.min(line.length, cols);
      while (line.length < cols) line.push([" ", PLAIN]);
      return line;
    };
    for (const lines of [this.lines, this.other ?? []]) {
      lines.forEach(fit);
      while (lines.length < rows) lines.push(this.blank());
    }
    while (this.lines.length > rows) {
      if (this.y < rows) this.lines.pop();
      else {
        this.leave(this.lines.shift());
        this.y -= 1;
      }
    }
    if (this.other) this.other.length = rows;
    this.rows = rows;
    [this.top, this.bottom] = [0, rows - 1];
    this.go(this.x, this.y);
  }

  leave(line) {
    if (this.other) return;
    this.history.push(line);
    this.left += 1;
    if (this.history.length > HISTORY) this.history.shift();
  }

  feed(text) {
    for (const character of text) this.state(character);
  }

  // The states

  text(character) {
    const code = character.codePointAt(0);
    if (code >= 0x20 && code !== 0x7f) this.put(character);
    else this.control(character);
  }

  control(character) {
    switch (character) {
      case "\r":
        this.go(0, this.y);
        break;
      case "\n":
      case "\v":
      case "\f":
        this.lineFeed();
        break;
      case "\b":
        this.go(this.x - 1, this.y);
        break;
      case "\t":
        this.go((Math.floor(this.x / TAB) + 1) * TAB, this.y);
        break;
      case "\x1b":
        this.state = this.escape;
        break;
    }
  }

  escape(character) {
    this.state = this.text;
    switch (character) {
      case "[":
        this.parameters = "";
        this.state = this.sequence;
        break;
      case "]":
      case "P":
      case "X":
      case "^":
      case "_":
        this.state = this.string;
        break;
      case "(":
      case ")":
      case "#":
      case "%":
      case " ":
        this.state = this.skip;
        break;
      case "7":
        this.saved = [this.x, this.y, this.style];
        break;
      case "8":
        this.restore();
        break;
      case "c":
        this.start(this.cols, this.rows);
        break;
      case "D":
        this.lineFeed();
        break;
      case "E":
        this.go(0, this.y);
        this.lineFeed();
        break;
      case "M":
        if (this.y === this.top) this.scrollDown(1);
        else this.go(this.x, this.y - 1);
        break;
    }
  }

  skip() {
    this.state = this.text;
  }

  string(character) {
    if (character === "\x07") this.state = this.text;
    else if (character === "\x1b") this.state = this.stringEnd;
  }

  stringEnd() {
    this.state = this.text;
  }

  sequence(character) {
    const code = character.codePointAt(0);
    if (code >= 0x40 && code <= 0x7e) {
      this.state = this.text;
      this.perform(character);
    } else if (code < 0x20) this.control(character);
    else if (this.parameters.length < 64) this.parameters += character;
  }

  // What the sequences do

  perform(final) {
    const isPrivate = this.parameters.startsWith("?");
    const numbers = this.parameters.replace(/^[?>=!]/, "").split(";").map((word) => parseInt(word, 10) || 0);
    const count = Math.max(1, numbers[0]);
    if (isPrivate) {
      if (final === "h" || final === "l") for (const number of numbers) this.mode(number, final === "h");
      return;
    }
    switch (final) {
      case "A":
        this.go(this.x, Math.max(this.y - count, this.y >= this.top ? this.top : 0));
        break;
      case "B":
      case "e":
        this.go(this.x, Math.min(this.y + count, this.y <= this.bottom ? this.bottom : this.rows - 1));
        break;
      case "C":
      case "a":
        this.go(this.x + count, this.y);
        break;
      case "D":
        this.go(this.x - count, this.y);
        break;
      case "E":
        this.go(0, this.y + count);
        break;
      case "F":
        this.go(0, this.y - count);
        break;
      case "G":
      case "`":
        this.go(count - 1, this.y);
        break;
      case "d":
        this.go(this.x, count - 1);
        break;
      case "H":
      case "f":
        this.go(Math.max(1, numbers[1] ?? 1) - 1, count - 1);
        break;
      case "J":
        this.eraseDisplay(numbers[0]);
        break;
      case "K":
        this.eraseLine(numbers[0]);
        break;
      case "L":
        this.insertLines(count);
        break;
      case "M":
        this.deleteLines(count);
        break;
      case "P":
        this.line().splice(this.x, count);
        while (this.line().length < this.cols) this.line().push([" ", PLAIN]);
        break;
      case "@":
        this.line().splice(this.x, 0, ...Array.from({ length: Math.min(count, this.cols) }, () => [" ", PLAIN]));
        this.line().length = this.cols;
        break;
      case "X":
        this.erase(this.y, this.x, this.x + count);
        break;
      case "S":
        this.scrollUp(count);
        break;
      case "T":
        this.scrollDown(count);
        break;
      case "m":
        this.appearance(numbers);
        break;
      case "r":
        this.region(numbers[0] || 1, numbers[1] || this.rows);
        break;
      case "s":
        this.saved = [this.x, this.y, this.style];
        break;
      case "u":
        this.restore();
        break;
    }
  }

  mode(number, on) {
    if (number === 1) this.applicationKeys = on;
    else if (number === 25) this.cursor = on;
    else if ((number === 47 || number === 1047 || number === 1049) && on !== (this.other !== null)) {
      if (on) {
        this.saved = [this.x, this.y, this.style];
        this.other = this.lines;
        this.lines = Array.from({ length: this.rows }, () => this.blank());
      } else {
        this.lines = this.other;
        this.other = null;
        this.restore();
      }
    }
  }

  region(first, last) {
    if (first >= last || last > this.rows) return;
    [this.top, this.bottom] = [first - 1, last - 1];
    this.go(0, 0);
  }

  restore() {
    const [x, y, style] = this.saved;
    this.style = style;
    this.go(x, y);
  }

  line() {
    return this.lines[this.y];
  }

  go(x, y) {
    this.x = Math.max(0, Math.min(x, this.cols - 1));
    this.y = Math.max(0, Math.min(y, this.rows - 1));
    this.wraps = false;
  }

  put(character) {
    if (this.wraps) {
      this.go(0, this.y);
      this.lineFeed();
    }
    this.line()[this.x] = [character, this.style];
    if (this.x + 1 < this.cols) this.x += 1;
    else this.wraps = true;
  }

  lineFeed() {
    this.wraps = false;
    if (this.y === this.bottom) this.scrollUp(1);
    else if (this.y + 1 < this.rows) this.y += 1;
  }

  scrollUp(count) {
    for (let each = Math.min(count, this.rows); each > 0; each -= 1) {
      const [line] = this.lines.splice(this.top, 1);
      if (this.top === 0) this.leave(line);
      this.lines.splice(this.bottom, 0, this.blank());
    }
  }

  scrollDown(count) {
    for (let each = Math.min(count, this.rows); each > 0; each -= 1) {
      this.lines.splice(this.bottom, 1);
      this.lines.splice(this.top, 0, this.blank());
    }
  }

  insertLines(count) {
    if (this.y < this.top || this.y > this.bottom) return;
    const top = this.top;
    this.top = this.y;
    this.scrollDown(count);
    this.top = top;
  }

  deleteLines(count) {
    if (this.y < this.top || this.y > this.bottom) return;
    for (let each = Math.min(count, this.rows); each > 0; each -= 1) {
      this.lines.splice(this.y, 1);
      this.lines.splice(this.bottom, 0, this.blank());
    }
  }

  erase(y, from, to) {
    for (let x = from; x < Math.min(to, this.cols); x += 1) this.lines[y][x] = [" ", PLAIN];
  }

  eraseLine(which) {
    this.erase(this.y, which === 0 ? this.x : 0, which === 1 ? this.x + 1 : this.cols);
  }

  eraseDisplay(which) {
    for (let y = 0; y < this.rows; y += 1) {
      if ((which === 0 && y > this.y) || (which === 1 && y < this.y) || which >= 2) this.erase(y, 0, this.cols);
    }
    if (which < 2) this.eraseLine(which);
  }

  appearance(numbers) {
    for (const number of numbers) {
      if (number === 0) this.look = { colour: "", ground: "", bold: false, underline: false, inverse: false };
      else if (number === 1 || number === 22) this.look.bold = number === 1;
      else if (number === 4 || number === 24) this.look.underline = number === 4;
      else if (number === 7 || number === 27) this.look.inverse = number === 7;
      else if (number >= 30 && number <= 37) this.look.colour = `c${number - 30}`;
      else if (number >= 90 && number <= 97) this.look.colour = `c${number - 82}`;
      else if (number === 39) this.look.colour = "";
      else if (number >= 40 && number <= 47) this.look.ground = `g${number - 40}`;
      else if (number >= 100 && number <= 107) this.look.ground = `g${number - 92}`;
      else if (number === 49) this.look.ground = "";
      else if (number === 38 || number === 48) break; // more colours than there are here
    }
    const { colour, ground, bold, underline, inverse } = this.look;
    const names = [colour, ground, bold && "bold", underline && "underline", inverse && "inverse"];
    this.style = names.filter(Boolean).join(" ");
  }
}
