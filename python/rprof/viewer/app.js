// The page: reads what is embedded, keeps what is selected, and shows it.

import { segments } from "./cells.js";
import { changeColor, colorOf } from "./colors.js";
import { byId, make } from "./dom.js";
import { ratio, sum } from "./exact.js";
import { FlameView, Tooltip } from "./flame_view.js";
import { human, percent } from "./format.js";
import { isHeap, MemoryView, tellsOfMemory } from "./memory_view.js";
import { countFunctions, describe, visible } from "./names.js";
import { decode, unpack } from "./profile.js";
import { doubts, facts, recordingList } from "./recording.js";
import { rootBy, rootChoices, rootLabel, showRoots } from "./roots.js";
import { SandwichView } from "./sandwich_view.js";
import { SourceView } from "./source_view.js";
import { State } from "./state.js";
import { TableView } from "./table_view.js";
import { bySize, threadKey, threadName, threadsOf, ThreadsView } from "./threads_view.js";
import { Dataset, magnitude, Selection } from "./tree.js";
import { WaitsView } from "./waits_view.js";

const VIEWS = [
  ["flame", "Flame graph"],
  ["sandwich", "Callers and callees"],
  ["table", "Table"],
  ["source", "Lines"],
  ["threads", "Threads"],
  ["waits", "Waits"],
  ["memory", "Memory"],
];
// Those that show lines.
const LINE_VIEWS = new Set(["sandwich", "source"]);
const DEFAULTS = {
  view: "flame",
  profile: "0",
  type: "",
  thread: "",
  label: "",
  root: "",
  search: "",
  direction: "",
  zoom: "",
  function: "",
  file: "",
  line: "",
  sort: "",
  width: "",
  compare: "",
  group: "",
  theme: "",
};
const THEMES = ["", "light", "dark"];
// A change of this fraction of the whole has its full colour.
const NOISE = 0.002;
const THREAD_LABELS = new Set(["thread id", "thread name"]);

function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index++) bytes[index] = raw.charCodeAt(index);
  return bytes;
}

/** The profile that is embedded, with what it tells of its recording, if it does. */
async function read({ data, facts }) {
  const profile = decode(await unpack(fromBase64(data)));
  profile.told = facts ?? { numbers: [], texts: [], unmeasured: [], others: profile.comments };
  return profile;
}

/** Keeps the newest result of a computation until its key changes. */
function remember(compute) {
  let known;
  let value;
  return (key, ...inputs) => {
    if (key !== known) {
      value = compute(...inputs);
      known = key;
    }
    return value;
  };
}

class App {
  constructor(data) {
    this.data = data;
    this.sources = new Map();
    this.profiles = new Map();
    this.state = new State(DEFAULTS, () => this.update());
    this.dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.select = remember((dataset, type, accepts) => new Selection(dataset, type, accepts));
    this.total = remember((dataset, selection) => dataset.functionTotals(selection));
    this.root = remember((loaded, key) => rooted(loaded, key));
    this.match = remember((described, search) => matchesOf(described, search));
    this.printing = false;
  }

  async start() {
    if (this.data.sources) {
      const text = new TextDecoder().decode(await unpack(fromBase64(this.data.sources)));
      this.sources = new Map(Object.entries(JSON.parse(text)));
    }
    this.baseline = this.data.baseline ? await read(this.data.baseline) : null;
    this.build();
    await this.load();
    if (isHeap(this.loaded.dataset.sides[0])) {
      this.state.changeDefault("view", "memory");
      this.update();
      byId(`tab-${this.context().view}`).scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  /** Decodes the chosen profile, if that has not been done. */
  async load() {
    const index = Number(this.state.values.profile);
    const number = this.data.profiles[index] ? index : 0;
    if (!this.profiles.has(number)) {
      const profile = await read(this.data.profiles[number]);
      const dataset = new Dataset(profile, this.baseline);
      this.profiles.set(number, {
        number,
        dataset,
        described: dataset.functions.map(describe),
        threads: threadsOf(dataset),
        roots: rootChoices(dataset),
        colors: { light: [], dark: [] },
      });
    }
    this.loaded = this.profiles.get(number);
    this.update();
  }

  build() {
    const tooltip = new Tooltip(byId("tooltip"));
    const actions = {
      zoom: (node) => this.zoom(node),
      open: (index) => this.open(index),
      source: (index) => this.state.set({ view: "source", file: this.loaded.dataset.functions[index].file, line: "" }),
    };
    this.tooltip = tooltip;
    this.views = {
      flame: new FlameView(
        {
          flame: byId("flame"),
          direction: byId("direction"),
          widthMode: byId("width-mode"),
          compareMode: byId("compare-mode"),
          crumbs: byId("crumbs"),
          detail: byId("detail"),
          legend: byId("legend"),
        },
        tooltip,
        actions,
      ),
      sandwich: new SandwichView(
        {
          picker: byId("picker"),
          head: byId("sandwich-head"),
          callers: byId("callers"),
          callees: byId("callees"),
          lines: byId("sandwich-lines"),
        },
        tooltip,
        actions,
      ),
      table: new TableView(byId("table")),
      source: new SourceView(byId("files"), byId("source"), this.sources),
      threads: new ThreadsView(byId("threads")),
      waits: new WaitsView(byId("waits")),
      memory: new MemoryView(byId("memory")),
    };
    byId("views").replaceChildren(
      ...VIEWS.map(([name, text]) =>
        make(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${name}`,
            "aria-controls": `view-${name}`,
            click: () => this.state.set({ view: name }),
          },
          text,
        ),
      ),
    );
    const listen = (id, event, action) => byId(id).addEventListener(event, action);
    listen("views", "keydown", (event) => this.moveTab(event));
    listen("types", "keydown", (event) => this.moveType(event));
    listen("thread", "change", (event) => this.state.set({ thread: event.target.value, zoom: "" }));
    listen("label", "change", (event) => this.state.set({ label: event.target.value, zoom: "" }));
    listen("root", "change", (event) => this.changeRoot(event.target.value));
    listen("search", "input", (event) => this.state.set({ search: event.target.value }, { step: false }));
    listen("theme", "click", () => this.nextTheme());
    listen("download", "click", () => this.download());
    listen("help-button", "click", () => byId("help").showModal());
    listen("recording-button", "click", () => byId("recording").showModal());
    listen("profile", "change", (event) => this.state.set({ profile: event.target.value, zoom: "", function: "" }));
    const choices = this.data.profiles.map(({ title }, index) =>
      make("option", { value: String(index) }, visible(title)),
    );
    byId("profile").replaceChildren(...choices);
    byId("profile").hidden = choices.length < 2;
    document.addEventListener("keydown", (event) => this.key(event));
    this.dark.addEventListener("change", () => this.update());
    window.addEventListener("beforeprint", () => this.print(true));
    window.addEventListener("afterprint", () => this.print(false));
  }

  /** Shows the state; only what it changed is computed anew. */
  update() {
    if (!this.views) return;
    const { values } = this.state;
    const number = this.data.profiles[Number(values.profile)] ? Number(values.profile) : 0;
    if (this.loaded?.number !== number) {
      this.load().catch(fail);
      return;
    }
    const context = this.context();
    document.documentElement.dataset.theme = context.theme;
    this.tooltip.element.hidden = true;
    this.masthead(context);
    this.controls(context);
    for (const [name] of VIEWS) {
      const current = name === context.view;
      const tab = byId(`tab-${name}`);
      tab.setAttribute("aria-selected", String(current));
      tab.hidden = !current && !this.offers(name);
      tab.tabIndex = current ? 0 : -1;
      byId(`view-${name}`).hidden = !current;
    }
    this.views[context.view].render(context);
  }

  /** Whether this profile has something to show in a view. */
  offers(view) {
    const [side] = this.loaded.dataset.sides;
    return view === "memory" ? tellsOfMemory(side) : view !== "waits" || !isHeap(side);
  }

  context() {
    const { values } = this.state;
    const { number, threads } = this.loaded;
    const root = this.chosenRoot();
    const { dataset, described, colors } = this.root(JSON.stringify([number, root]), this.loaded, root);
    const main = dataset.sides[0];
    const types = offeredTypes(dataset.sides);
    const kind =
      types.find(({ name }) => name === values.type) ??
      types.find(({ name }) => name === main.defaultType) ??
      types[0];
    const comparing = dataset.sides.length > 1;
    const [labelKey, labelValue] = values.label.split("\u0000");
    const accepts = (set) =>
      (values.thread === "" || threadKey(set, comparing) === values.thread) &&
      (values.label === "" || set.some(({ key, value }) => key === labelKey && value === labelValue));
    const selectionKey = JSON.stringify([number, kind.name, values.thread, values.label, root]);
    const selection = this.select(selectionKey, dataset, kind.name, accepts);
    const totals = this.total(selectionKey, dataset, selection);
    const whole = selection.wholes;
    const matches = this.match(JSON.stringify([number, root, values.search]), described, values.search);
    const theme = this.theme();
    const compareShares = comparing && values.compare === "shares";
    const fraction = (value, side) => ratio(value, whole[side]);
    return {
      state: values,
      view: VIEWS.some(([name]) => name === values.view) ? values.view : "flame",
      dataset,
      described,
      root,
      accepts,
      threads,
      sources: this.sources,
      selection,
      type: kind.name,
      unit: kind.unit,
      totals,
      whole,
      isDifference: selection.isDifference,
      typeTotals: main.columns.map(sum),
      typeWholes: main.columns.map((column) => magnitude(main, column)),
      matches: matches.found,
      problem: matches.problem,
      inverted: values.direction === "inverted",
      theme,
      compareShares,
      set: (changes) => this.state.set(changes),
      open: (index) => this.open(index),
      color: (index) => (colors[theme][index] ??= colorOf(described[index], theme)),
      change: (after, before) =>
        compareShares ? fraction(after, 0) - fraction(before, 1) : after - before,
      changeColor: (after, before) => {
        // What is next to nothing of the whole is noise, and has the colour of no change.
        const [now, then] = compareShares
          ? [fraction(after, 0), fraction(before, 1)]
          : [Number(after), Number(before)];
        const most = Math.max(Math.abs(now), Math.abs(then));
        const scale = compareShares ? 1 : Math.max(...whole.map(Number));
        const weight = scale ? Math.min(1, Math.abs(now - then) / (NOISE * scale)) : 0;
        return changeColor(most ? (weight * (now - then)) / most : 0, theme);
      },
      modelKey: (name) => JSON.stringify([selectionKey, name, values.width, values.compare]),
      /** Functions with samples in the selection that the search does not leave out. */
      rows: () =>
        described
          .map((_, index) => index)
          .filter(
            (index) =>
              totals.some(({ total }) => total[index]) && (!matches.found || matches.found[index]),
          ),
      emptyText: () =>
        values.search
          ? "Nothing matches the search here."
          : values.thread || values.label
            ? `No ${kind.name} in this selection. Choose another thread, label or sample type.`
            : `This profile has no ${kind.name}: nothing was sampled, or nothing happened.`,
    };
  }

  /** What a sample type tells, if it is one of rprof's. */
  meaningOf({ name, unit }) {
    return this.data.measures.find((known) => known.name === name && known.unit === unit)?.meaning;
  }

  theme() {
    if (this.printing) return "light";
    return this.state.values.theme || (this.dark.matches ? "dark" : "light");
  }

  masthead(context) {
    const profile = context.dataset.sides[0];
    const { title } = this.data.profiles[this.loaded.number];
    const shown = visible(this.data.title);
    document.title = shown;
    byId("title").replaceChildren(make("bdi", {}, shown));
    const line = facts(profile, context.threads.filter((thread) => thread.totals.length).length);
    if (this.baseline) line.unshift(["compared", `compared with ${visible(this.data.baseline.title)}`]);
    byId("facts").replaceChildren(
      // The spaces are where a narrow page breaks the line.
      ...line.flatMap(([name, text]) => [make("span", { class: `fact ${name}` }, text), " "]),
    );
    byId("recording-facts").replaceChildren(
      ...recordingList(profile, title),
      ...(this.baseline ? recordingList(this.baseline, this.data.baseline.title) : []),
    );
    byId("profile").value = String(this.loaded.number);
    const theme = this.state.values.theme;
    byId("theme").textContent = { "": "◐", light: "☀", dark: "☾" }[theme] ?? "◐";
    byId("theme").setAttribute("aria-label", `Theme: ${theme || "as the system"}`);
  }

  controls(context) {
    const { values } = this.state;
    const profile = context.dataset.sides[0];
    const focused = document.activeElement?.closest?.("#types") !== null;
    segments(
      byId("types"),
      offeredTypes(context.dataset.sides).map((kind) => {
        const { name, unit } = kind;
        const total = context.typeTotals[profile.sampleTypes.indexOf(kind)];
        return [
          name,
          make(
            "span",
            { class: "type" },
            make("span", { class: "type-name" }, visible(name)),
            make("span", { class: "type-total", "data-exact": String(total) }, human(total, unit)),
          ),
          this.meaningOf(kind),
        ];
      }),
      context.type,
      (type) => this.state.set({ type }),
    );
    for (const button of byId("types").children) {
      button.tabIndex = button.getAttribute("aria-checked") === "true" ? 0 : -1;
      if (focused && button.tabIndex === 0) button.focus();
    }
    const sentences = doubts(context.dataset.sides, context.type, LINE_VIEWS.has(context.view));
    if (context.isDifference && context.dataset.sides.length === 1) {
      sentences.unshift(
        `A difference of two profiles: shares are of ${human(context.whole[0], context.unit)}, all that changed.`,
      );
    }
    byId("doubts").replaceChildren(...sentences.map((sentence) => make("p", {}, sentence)));
    byId("doubts").hidden = sentences.length === 0;
    this.threadChoices(context);
    this.labelChoices(context);
    showRoots(byId("root"), this.loaded.roots, context.root);
    byId("root-field").hidden = this.loaded.roots.choices.length === 0;
    const search = byId("search");
    if (search.value !== values.search) search.value = values.search;
    search.setAttribute("aria-invalid", String(context.problem !== ""));
    byId("matches").textContent = this.matchText(context);
  }

  matchText(context) {
    if (context.problem) return context.problem;
    if (!context.matches) return "";
    const matching = context.described.filter((_, index) => context.matches[index]);
    const [found] = context.dataset.matchTotals(context.selection, context.matches);
    byId("matches").dataset.exact = String(found);
    return matching.length
      ? `${countFunctions(matching)}, in ${human(found, context.unit)} (${percent(ratio(found, context.whole[0]))})`
      : "no match";
  }

  threadChoices(context) {
    const type = context.dataset.sides[0].sampleTypes.findIndex(({ name }) => name === context.type);
    const sorted = [...context.threads].sort((left, right) => bySize(left, right, type));
    const options = sorted.map((thread) =>
      make(
        "option",
        { value: thread.key },
        `${threadName(thread)} · ${percent(ratio(thread.totals[type] ?? 0, context.typeWholes[type]))}`,
      ),
    );
    byId("thread").replaceChildren(make("option", { value: "" }, `All ${options.length}`), ...options);
    byId("thread").value = this.state.values.thread;
    byId("thread-field").hidden = options.length < 2 && this.state.values.thread === "";
  }

  labelChoices(context) {
    const byKey = new Map();
    for (const side of context.dataset.sides) {
      for (const { key, value } of side.labelSets.flat()) {
        if (THREAD_LABELS.has(key)) continue;
        if (!byKey.has(key)) byKey.set(key, new Set());
        byKey.get(key).add(value);
      }
    }
    const groups = [...byKey].sort().map(([key, found]) =>
      make(
        "optgroup",
        { label: visible(key) },
        ...[...found].sort().map((value) =>
          make("option", { value: `${key}\u0000${value}` }, `${visible(key)} = ${visible(value)}`),
        ),
      ),
    );
    byId("label").replaceChildren(make("option", { value: "" }, "Any"), ...groups);
    byId("label").value = this.state.values.label;
    byId("label-field").hidden = groups.length === 0;
  }

  zoom(node) {
    this.state.set({ zoom: node > 0 ? String(node) : "" });
  }

  open(index) {
    if (index >= 0) this.state.set({ view: "sandwich", function: String(index) });
  }

  /** The label that stacks begin with; none if this profile does not have it. */
  chosenRoot() {
    const { root } = this.state.values;
    return this.loaded.roots.choices.some(([key]) => key === root) ? root : "";
  }

  changeRoot(root) {
    // The functions keep their numbers, the roots do not.
    const kept = Number(this.state.values.function) < this.loaded.dataset.functions.length;
    this.state.set({ root, zoom: "", function: kept ? this.state.values.function : "" });
  }

  nextRoot() {
    const keys = ["", ...this.loaded.roots.choices.map(([key]) => key)];
    this.changeRoot(keys[(keys.indexOf(this.chosenRoot()) + 1) % keys.length]);
  }

  nextTheme() {
    const at = THEMES.indexOf(this.state.values.theme);
    this.state.set({ theme: THEMES[(at + 1) % THEMES.length] }, { step: false });
  }

  nextType() {
    const types = offeredTypes(this.loaded.dataset.sides).map(({ name }) => name);
    const at = types.indexOf(this.context().type);
    this.state.set({ type: types[(at + 1) % types.length] });
  }

  download() {
    const { title, data } = this.data.profiles[this.loaded.number];
    const address = URL.createObjectURL(new Blob([fromBase64(data)], { type: "application/gzip" }));
    const base = title.replace(/[^\w.-]+/g, "-").replace(/(\.pb)?(\.gz)?$/, "") || "profile";
    const link = make("a", { href: address, download: `${base}.pb.gz` });
    link.click();
    // The download has begun with the click; the address is not needed after it.
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  print(printing) {
    this.printing = printing;
    this.update();
    const graph = this.views.flame.graph;
    if (graph.model) graph.draw();
  }

  moveTab(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const { view } = this.context();
    const offered = VIEWS.filter(([name]) => name === view || this.offers(name));
    const at = offered.findIndex(([name]) => name === view);
    const [name] = offered[(at + step + offered.length) % offered.length];
    this.state.set({ view: name });
    byId(`tab-${name}`).focus();
    event.preventDefault();
  }

  moveType(event) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    const types = offeredTypes(this.loaded.dataset.sides).map(({ name }) => name);
    const at = types.indexOf(this.context().type);
    this.state.set({ type: types[(at + step + types.length) % types.length] });
    event.preventDefault();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input, select, textarea") !== null;
    if (event.key === "Escape") {
      if (typing && event.target.id === "search" && event.target.value === "") event.target.blur();
      if (this.state.values.search) this.state.set({ search: "" }, { step: false });
      return;
    }
    if (typing) return;
    const action = this.keyAction(event.key);
    if (action) {
      event.preventDefault();
      action();
    }
  }

  keyAction(key) {
    const { values } = this.state;
    if (/^[1-7]$/.test(key)) return () => this.state.set({ view: VIEWS[Number(key) - 1][0] });
    return {
      "/": () => byId("search").focus(),
      "?": () => byId("help").showModal(),
      0: () => this.zoom(0),
      t: () => this.nextTheme(),
      m: () => this.nextType(),
      r: () => this.nextRoot(),
      i: () => this.state.set({ view: "flame", direction: values.direction ? "" : "inverted", zoom: "" }),
      Backspace: () => {
        const tree = this.views.flame.model?.tree;
        if (values.zoom && tree) this.zoom(tree.parent[Number(values.zoom)] ?? 0);
      },
    }[key];
  }
}

/** What is loaded, with the values of a label as roots of the stacks; "" for none. */
function rooted(loaded, key) {
  if (key === "") return loaded;
  const dataset = loaded.dataset.rooted(rootBy(key), rootLabel(key));
  const described = dataset.functions.map((made, index) => loaded.described[index] ?? describe(made));
  return { dataset, described, colors: { light: [], dark: [] } };
}

/** The sample types to choose from: of two profiles, those that both measured, if there are any. */
function offeredTypes(sides) {
  const [first, ...others] = sides.map((side) => side.sampleTypes);
  const common = first.filter(({ name }) => others.every((types) => types.some((type) => type.name === name)));
  return common.length ? common : first;
}

/** Which functions a search finds: by name or file, upper and lower case alike. */
function matchesOf(described, search) {
  if (search === "") return { found: null, problem: "" };
  let pattern;
  try {
    pattern = new RegExp(search, "iu");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { found: null, problem: "not a regular expression yet" };
  }
  return {
    found: Uint8Array.from(described, ({ name, shownFile }) => pattern.test(name) || pattern.test(shownFile)),
    problem: "",
  };
}

function fail(error) {
  const notice = byId("notice");
  notice.hidden = false;
  notice.textContent = `The profile in this page cannot be read: ${error.message}`;
  document.documentElement.dataset.ready = "failed";
  throw error;
}

const app = new App(JSON.parse(byId("page-data").textContent));
try {
  await app.start();
  document.documentElement.dataset.ready = "yes";
} catch (error) {
  fail(error);
}
