// Parts that several tables share.

import { make } from "./dom.js";
import { ratio } from "./exact.js";
import { exact, human, percent } from "./format.js";

/** A value with a bar and its share of the whole; the exact figure is in its title. */
export function weightCell(value, whole, unit) {
  const share = ratio(value, whole);
  const bar = make("span", { class: "share-bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(Math.min(1, Math.abs(share))));
  return make(
    "td",
    { class: "number weight", "data-exact": String(value), title: `${exact(value)} ${unit}` },
    bar,
    make("span", { class: "value" }, human(value, unit)),
    make("span", { class: "share" }, percent(share)),
  );
}

/** A dot in the colour that the function has in the flame graph. */
export function swatch(context, index) {
  const element = make("span", { class: "swatch", "aria-hidden": "true" });
  element.style.backgroundColor = context.color(index);
  return element;
}

/** Radio buttons in a row; `choices` are [value, text, title]. */
export function segments(root, choices, current, choose) {
  root.replaceChildren(
    ...choices.map(([value, text, title]) =>
      make(
        "button",
        {
          type: "button",
          role: "radio",
          "aria-checked": String(value === current),
          "data-value": value,
          title,
          click: () => choose(value),
        },
        text,
      ),
    ),
  );
}
