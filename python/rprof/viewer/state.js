// What is looked at, kept in the fragment of the address: it can be shared, and the browser's own
// back and forward buttons walk through it.

export class State {
  constructor(defaults, changed) {
    this.defaults = defaults;
    this.changed = changed;
    this.values = this.read();
    // Covers back, forward and an edited address; our own writes do not cause it.
    window.addEventListener("popstate", () => {
      this.values = this.read();
      this.changed();
    });
  }

  /** Has another value count where the address says nothing. */
  changeDefault(name, value) {
    this.defaults = { ...this.defaults, [name]: value };
    this.values = this.read();
  }

  read() {
    const found = new URLSearchParams(window.location.hash.slice(1));
    const values = { ...this.defaults };
    for (const name of Object.keys(values)) {
      if (found.has(name)) values[name] = found.get(name);
    }
    return values;
  }

  /** Changes values; a step of its own in the history, or the one before made different. */
  set(changes, { step = true } = {}) {
    const before = this.fragment();
    Object.assign(this.values, changes);
    const after = this.fragment();
    if (after !== before) {
      // Whole: in a frame that was made from text, "#" alone is taken for the page around it.
      const address = window.location.href.split("#")[0] + (after || "#");
      if (step) window.history.pushState(null, "", address);
      else window.history.replaceState(null, "", address);
    }
    this.changed();
  }

  fragment() {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(this.values)) {
      if (value !== this.defaults[name]) kept.set(name, value);
    }
    const text = kept.toString();
    return text && `#${text}`;
  }
}
