"use strict";
// Recomputes who is kept at other thresholds: the same rules as curation/pipeline/rules.py, over cells of
// samples that have the same codes in every column that decides.
(() => {
  const KEPT = 0, REJECTED = 1, FAILED = 2, PENDING = 3;  // places in curation.ledger.columns.OUTCOMES
  const MISSING_CODE = 0, FAILED_CODE = 1, NULL_CODE = 2, FIRST_CODE = 3;
  const NOBODY = -1;
  const format = new Intl.NumberFormat("en-US");
  const byId = (id) => document.getElementById(id);
  const dataOf = (id) => JSON.parse(byId(id)?.textContent ?? "null");

  const unpacked = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // Whether each code of a column passes a threshold that stands at a stop; null lets all numbers pass.
  function passing(threshold, stops, value) {
    const found = new Uint8Array(256);
    const at = value === null ? null : 2 * stops.indexOf(value) + 1;
    for (let code = NULL_CODE; code < 256; code++) {
      const position = code - FIRST_CODE;
      if (at === null) found[code] = 1;
      else if (code === NULL_CODE) found[code] = threshold.mode === "far" ? 1 : 0;
      else if (threshold.mode === "max") found[code] = position <= at ? 1 : 0;
      else found[code] = position >= at ? 1 : 0;
    }
    return found;
  }

  // An outcome and the step where it was found, as one number.
  const verdict = (outcome, step) => outcome + 4 * (step + 1);
  const outcomeOf = (found) => found & 3;
  const stepOf = (found) => (found >> 2) - 1;

  function decide(rule, cell, model) {
    if (rule.step !== undefined) return decideStep(rule.step, cell, model);
    if (rule.all) {
      for (const part of rule.all) {
        const found = decide(part, cell, model);
        if (outcomeOf(found) !== KEPT) return found;
      }
      return verdict(KEPT, NOBODY);
    }
    let failed = null, last = null;
    for (const part of rule.any) {
      const found = decide(part, cell, model);
      if (outcomeOf(found) === KEPT || outcomeOf(found) === PENDING) return found;
      last = found;
      if (outcomeOf(found) === FAILED) failed = found;
    }
    return failed ?? last;
  }

  function decideStep(step, cell, model) {
    if (model.stale[step]) return verdict(PENDING, step);
    const status = model.codes[model.steps[step].column][cell];
    if (status === MISSING_CODE) return verdict(PENDING, step);
    if (status === FAILED_CODE) return verdict(FAILED, step);
    for (const {column, passes} of model.checks[step])
      if (!passes[model.codes[column][cell]]) return verdict(REJECTED, step);
    return verdict(KEPT, NOBODY);
  }

  // A dataset-wide step looked at other samples than those that now come to it: its rows are of no use.
  function staleSteps(kind, values) {
    const moved = kind.thresholds.filter((one, place) => one.value !== values[place]).map((one) => one.step);
    return kind.steps.map((step, place) => step.wide && moved.some((other) => other < place));
  }

  function evaluate(kind, values) {
    const model = {steps: kind.steps, codes: kind.unpacked, stale: staleSteps(kind, values)};
    model.checks = kind.steps.map(() => []);
    kind.thresholds.forEach((one, place) => {
      const passes = passing(one, kind.columns[one.column].stops, values[place]);
      model.checks[one.step].push({column: one.column, passes});
    });
    const totals = [0, 0, 0, 0], ended = kind.steps.map(() => [0, 0, 0, 0]), enrich = kind.enrich.map(() => 0);
    for (let cell = 0; cell < kind.leaves.length; cell++) {
      const found = decide(kind.rule, cell, model);
      if (outcomeOf(found) !== KEPT) {
        totals[outcomeOf(found)] += kind.wholes[cell];
        ended[stepOf(found)][outcomeOf(found)] += kind.wholes[cell];
      } else {  // windows of a long clip count one by one
        const end = kind.ends[cell];
        totals[Math.min(end, PENDING)] += kind.leaves[cell];
        if (end > PENDING) enrich[end - PENDING - 1] += kind.leaves[cell];
      }
    }
    return {totals, ended, enrich};
  }

  function signed(number) {
    return number === 0 ? "no change" : (number > 0 ? "+" : "−") + format.format(Math.abs(number));
  }

  // ---- the page ----

  const charts = new Map();  // signal -> the views that have it

  class Panel {
    constructor(kind, onChange) {
      this.kind = kind;
      this.onChange = onChange;
      kind.unpacked = kind.columns.map((column) => unpacked(column.codes));
      kind.ends = unpacked(kind.ends);
      this.values = kind.thresholds.map((one) => one.value);
      this.now = evaluate(kind, this.values);
      kind.thresholds.forEach((one, place) => this.wire(one, place));
      this.root = byId("steer-" + kind.kind);
      this.show();
    }

    wire(one, place) {
      const box = document.querySelector(`[data-threshold="${CSS.escape(one.key)}"]`);
      const slider = box.querySelector("input[type=range]"), off = box.querySelector("input[type=checkbox]");
      one.box = box;
      slider.addEventListener("input", () => this.move(place, one.stops[slider.valueAsNumber]));
      off?.addEventListener("change", () =>
        this.move(place, off.checked ? null : one.stops[slider.valueAsNumber]));
      box.querySelector("button").addEventListener("click", () => this.move(place, one.value));
      this.place(one, one.value);
      const without = [...this.values];
      without[place] = null;
      const {totals} = evaluate(this.kind, without);
      const gain = totals[KEPT] - this.now.totals[KEPT], waits = totals[PENDING] - this.now.totals[PENDING];
      const gains = [gain ? `${signed(gain)} kept` : "", waits ? `${signed(waits)} to measure first` : ""];
      box.querySelector(".alone").textContent = one.value === null ? "" :
        gain || waits ? "Without it: " + gains.filter(Boolean).join(", ") : "Without it: no change";
    }

    // Bring the controls of a threshold to a value.
    place(one, value) {
      const slider = one.box.querySelector("input[type=range]");
      const off = one.box.querySelector("input[type=checkbox]");
      if (off) off.checked = value === null;
      slider.disabled = value === null;
      if (value !== null) slider.value = one.stops.indexOf(value);
      slider.setAttribute("aria-valuetext", value === null ? "off" : String(value));
      one.box.querySelector("output").textContent = value === null ? "off" : value;
      one.box.classList.toggle("moved", value !== one.value);
      one.box.querySelector("button").hidden = value === one.value;
      for (const view of charts.get(one.signal) ?? []) view.signal(one.signal, value).runAsync();
    }

    move(place, value) {
      this.values[place] = value;
      this.place(this.kind.thresholds[place], value);
      this.show();
      this.onChange();
    }

    reset() {
      this.kind.thresholds.forEach((one, place) => this.move(place, one.value));
    }

    // Settings that differ from the present ones: place in the configuration -> value.
    changes() {
      return this.kind.thresholds.map((one, place) => [one.key, this.values[place], one.value])
        .filter(([, value, before]) => value !== before);
    }

    show() {
      const then = evaluate(this.kind, this.values), now = this.now;
      this.kind.outcomes.forEach((outcome, place) => {
        const box = this.root.querySelector(`[data-outcome="${outcome}"]`);
        const change = then.totals[place] - now.totals[place];
        box.querySelector("b").textContent = format.format(then.totals[place]);
        box.querySelector("i").textContent = change ? signed(change) : "";
      });
      const waiting = [
        ...this.kind.steps.map((step, place) => [step.key, then.ended[place][PENDING]]),
        ...this.kind.enrich.map((key, place) => [key, then.enrich[place]]),
      ].filter(([, number]) => number);
      this.root.querySelector(".waiting").textContent = waiting.length === 0 ? "" :
        "To measure first: " + waiting.map(([key, number]) => `${format.format(number)} by ${key}`).join(", ");
      this.kind.steps.forEach((step, place) => {
        for (const outcome of [REJECTED, FAILED, PENDING])
          this.fill(step.key, outcome, then.ended[place][outcome], now.ended[place][outcome]);
      });
      this.kind.enrich.forEach((key, place) => this.fill(key, PENDING, then.enrich[place], now.enrich[place]));
    }

    // The cell of a step and an outcome.
    fill(key, outcome, number, before) {
      const row = this.root.querySelector(`[data-step="${CSS.escape(key)}"]`);
      const cell = row.querySelector(`[data-ended="${this.kind.outcomes[outcome]}"]`);
      cell.querySelector("b").textContent = format.format(number);
      cell.querySelector("i").textContent = number === before ? "" : signed(number - before);
    }
  }

  // Text for the configuration file: nested mappings.
  function yamlOf(changes) {
    const tree = {};
    for (const [key, value] of changes) {
      const path = key.split(".");
      let inside = tree;
      for (const name of path.slice(0, -1)) inside = inside[name] ??= {};
      inside[path.at(-1)] = value;
    }
    const lines = (inside, indent) => Object.entries(inside).flatMap(([name, value]) =>
      value !== null && typeof value === "object"
        ? [`${indent}${name}:`, ...lines(value, indent + "  ")] : [`${indent}${name}: ${value}`]);
    return lines(tree, "").join("\n");
  }

  function steer() {
    const kinds = dataOf("steering-data");
    if (!kinds) return;
    const bar = byId("settings");
    const panels = [];
    const say = () => {
      const changes = panels.flatMap((panel) => panel.changes());
      bar.hidden = changes.length === 0;
      for (const panel of panels) panel.root.querySelector(".taken").hidden = panel.changes().length === 0;
      byId("as-flags").textContent = changes.map(([key, value]) => `--set ${key}=${value}`).join(" ");
      byId("as-yaml").textContent = yamlOf(changes);
    };
    for (const kind of kinds) panels.push(new Panel(kind, say));
    byId("reset-all").addEventListener("click", () => panels.forEach((panel) => panel.reset()));
    for (const button of bar.querySelectorAll("[data-copy]"))
      button.addEventListener("click", async () => {
        const text = byId(button.dataset.copy);
        try {
          await navigator.clipboard.writeText(text.textContent);
          button.textContent = "Copied";
        } catch {  // a page from a file may not be allowed to: select it, so that Ctrl-C does
          getSelection().selectAllChildren(text);
          button.textContent = "Selected";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
  }

  async function draw() {
    for (const box of document.querySelectorAll("[data-chart]")) {
      const spec = dataOf(box.dataset.chart);
      const options = {actions: false, ast: true, renderer: "svg", defaultStyle: false};
      const {view} = await vegaEmbed(box, spec, options);
      for (const {name} of spec.params ?? [])
        charts.set(name, [...(charts.get(name) ?? []), view]);
    }
  }

  steer();
  draw().then(() => { document.documentElement.dataset.ready = "true"; });
})();
