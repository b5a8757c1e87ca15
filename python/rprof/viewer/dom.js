// Making elements. Text goes in as text: nothing here, or anywhere on the page, parses HTML.

/** An element with attributes, listeners (functions) and children (nodes or text). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== "" && child !== null));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A function's name, its module softer; bidi isolation keeps it from turning its surroundings. */
export function nameOf(described) {
  return make(
    "bdi",
    { class: `name ${described.kind}`, dir: "ltr" },
    described.prefix ? make("span", { class: "prefix" }, described.prefix) : "",
    described.short,
  );
}
