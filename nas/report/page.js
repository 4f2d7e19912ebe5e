"use strict";
// The script of the pages: it sorts tables, and shows the trials that the page holds as data. It loads nothing. Labels and reasons are
// somebody else's text: they go into the page as text alone, by `append` and `setAttribute`, never as HTML.
(() => {
  const WINDOW = 200; // rows of a table that are drawn at once
  const NEAR = 24; // pixels around a point in which it is meant
  const FEW = 8; // choices that stand beside a point
  const UNKNOWN = "–";
  const PREFIXES = ["", "k", "M", "G", "T", "P"];
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const byId = (id) => document.getElementById(id);
  const SVG = document.querySelector("svg")?.namespaceURI;

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }
  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  // --- numbers, as Python writes them on the page ---

  function si(value) {
    if (Math.abs(value) < 1000 && Number.isInteger(value)) return String(value);
    if (value === 0 || Math.abs(value) >= 1e18) return value.toExponential(2);
    const exponent = Number(value.toExponential(2).split("e")[1]);
    const thousands = Math.min(Math.max(Math.floor(exponent / 3) * 3, 0), 15);
    const digits = Math.min(Math.max(2 - (exponent - thousands), 0), 20);
    return `${(value / 10 ** thousands).toFixed(digits)} ${PREFIXES[thousands / 3]}`.trim();
  }
  function written(column, value) {
    if (value === null || value === undefined) return UNKNOWN;
    if (column.as === "percent") return `${(100 * value).toFixed(2)} %`;
    if (column.as === "si") return [si(value), column.unit].join(/[a-zA-Z]$/.test(si(value)) ? "" : " ").trim();
    const text = column.as === "ms" ? value.toFixed(Math.min(Math.max(2 - Math.floor(Math.log10(Math.abs(value) || 1)), 0), 6)) : `${+value.toPrecision(4)}`;
    return `${text} ${column.unit}`.trim();
  }
  const NUMBER = /^(-?[\d,]*\.?\d+(?:e[+-]?\d+)?) ?([kMGTP]?)(?:[a-zA-Z%/]*)(?: ?[±(].*)?$/;
  function number(text) {
    const found = NUMBER.exec(text.trim());
    return found ? Number(found[1].replaceAll(",", "")) * 1000 ** PREFIXES.indexOf(found[2]) : null;
  }

  // --- order ---

  function ordered(items, value, down) { // unknown values stand last, either way
    const sign = down ? -1 : 1;
    return items.map((item) => [value(item), item]).sort(([a], [b]) => {
      const missing = (a === null || a === undefined) - (b === null || b === undefined);
      return missing || (a === null || a === undefined ? 0 : sign * (typeof a === "number" ? a - b : compare(a, b)));
    }).map(([, item]) => item);
  }
  // Headings become buttons; `sort` is called with the number of the column and whether it falls.
  function sortable(headings, sort) {
    headings.forEach((heading, at) => {
      if (!heading.textContent) return;
      const button = make("button", { type: "button", class: "sort" }, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(at, down);
      });
    });
  }
  for (const table of document.querySelectorAll("table.sorted")) {
    const body = table.tBodies[0], rows = [...body.rows];
    if (rows.length < 2) continue;
    const text = (row, at) => row.cells[at].firstChild?.textContent ?? "";
    sortable([...table.tHead.rows[0].cells], (at, down) => {
      const shown = (row) => (["", UNKNOWN].includes(text(row, at)) ? null : text(row, at));
      const numeric = rows.every((row) => shown(row) === null || number(shown(row)) !== null);
      body.append(...ordered(rows, (row) => (numeric && shown(row) !== null ? number(shown(row)) : shown(row)), down));
    });
  }

  // Calls `redraw` whenever the width of an element is another; not at once, as what it draws may change the width again.
  function onWidth(element, redraw) {
    let width = element.clientWidth;
    new ResizeObserver(() => requestAnimationFrame(() => {
      if (!element.clientWidth || element.clientWidth === width) return;
      width = element.clientWidth;
      redraw();
    })).observe(element);
  }

  // A table of which a window is drawn. Columns: `title`, `value(item)` to sort by, `cell(item)` to show, `wide`; `mark(row, item)`.
  function grid(host, name, columns, mark = () => {}) {
    const headings = columns.map((column) => make("th", { scope: "col", class: column.wide && "long" }, column.title));
    const body = make("tbody");
    const more = make("button", { type: "button", onclick: () => extend() });
    host.append(
      make("div", { class: "wide window", tabindex: 0, role: "region", "aria-label": name }, make("table", {}, make("thead", {}, make("tr", {}, ...headings)), body)),
      more,
    );
    let given = [], items = [], shown = 0, by = null;
    function extend() {
      const next = items.slice(shown, shown + WINDOW);
      shown += next.length;
      body.append(...next.map((item) => {
        const row = make("tr", {}, ...columns.map((column) => make("td", { class: column.wide && "long" }, column.cell(item))));
        mark(row, item);
        return row;
      }));
      more.textContent = `Show ${Math.min(WINDOW, items.length - shown)} more of ${(items.length - shown).toLocaleString("en")}`;
      more.hidden = shown === items.length;
    }
    function refresh() {
      items = by ? ordered(given, columns[by.at].value, by.down) : given;
      shown = 0;
      body.replaceChildren();
      extend();
    }
    sortable(headings, (at, down) => { by = { at, down }; refresh(); });
    return (found) => { given = found; refresh(); };
  }

  const held = byId("data");
  if (!held) return;
  const data = JSON.parse(held.textContent);
  const tip = make("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  const all = data.labels ? data.labels.map((_, at) => at) : [];

  // --- what a trial is ---

  const { columns = [], values = [], choices = [], codes = [] } = data;
  const main = columns.map((_, at) => at).filter((at) => columns[at].main);
  const place = new Map(columns.map((column, at) => [column.name, at]));
  const onFront = new Set(data.front), behind = new Set(data.behind);
  const figure = (column, trial) => written(columns[column], values[column][trial]);
  const chosen = (trial) => choices.flatMap((choice, at) => (codes[at][trial] < 0 ? [] : [[choice.name, choice.values[codes[at][trial]]]]));
  const standsAt = (trial) => (onFront.has(trial) ? (trial === data.knee ? "on the front, its knee" : "on the front") : behind.has(trial) ? "behind once trained alone" : "");
  const standing = (trial) => (trial === data.parent ? ["the trained model", standsAt(trial)].filter(Boolean).join(", ") : standsAt(trial));
  const quoted = (text) => (/^[\w@%+=:,.\/][\w@%+=:,.\/-]*$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const command = (trial) => (data.command.before ? data.command.before + quoted(data.labels[trial]) + data.command.after : "");

  function showTip(event, title, rows, note = "") {
    tip.replaceChildren(make("b", {}, title), " ", make("span", { class: "quiet" }, note), make("dl", {}, ...rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
    tip.hidden = false;
    const box = event.currentTarget?.getBoundingClientRect?.() ?? {};
    const x = event.clientX ?? box.right, y = event.clientY ?? box.bottom;
    const left = Math.min(x + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const top = y + 14 + tip.offsetHeight > window.innerHeight ? y - tip.offsetHeight - 10 : y + 14;
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${Math.max(top, 4)}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  document.addEventListener("scroll", hideTip, { passive: true });

  // Arrow keys walk over what fits the selector; one of them at a time is a stop of the tab key.
  function walk(host, selector) {
    host.addEventListener("keydown", (event) => {
      const stops = [...host.querySelectorAll(selector)], at = stops.indexOf(event.target);
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: stops.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      const next = stops[Math.min(Math.max(to, 0), stops.length - 1)];
      event.target.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  }

  // Marks from 1, 2 or 5 times a power of ten, about so many.
  function marks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, at) => +((first + at) * step).toPrecision(12));
  }

  // --- trials: the plot, details, filters and the table ---

  function explore() {
    const plot = byId("plot"), svg = plot.querySelector("svg"), details = byId("details"), count = byId("count");
    const [selectX, selectY] = [byId("across"), byId("up")];
    let selected = null, matched = all, limits = [], at = [];
    const circles = new Map();

    [selectX, selectY].forEach((select, axis) => {
      select.append(...columns.map((column, number) => make("option", { value: number, selected: number === data.axes[axis] }, column.title)));
      select.addEventListener("change", drawPlot);
    });

    const pick = (trial) => make("button", { type: "button", class: "pick", onclick: () => select(trial) }, data.labels[trial]);
    const marked = (row, trial) => {
      row.dataset.row = trial;
      if (trial === selected) row.setAttribute("aria-current", "true");
    };
    const long = data.labels.some((label) => label.length > 40);
    const show = grid(byId("trials"), "Trials", [
      { title: "architecture", value: (trial) => data.labels[trial], cell: pick, wide: long },
      ...main.map((column) => ({ title: columns[column].title, value: (trial) => values[column][trial], cell: (trial) => figure(column, trial) })),
      { title: "front", value: (trial) => (standing(trial) ? standing(trial) : null), cell: standing },
    ], marked);
    for (const cell of document.querySelectorAll("td[data-trial]")) {
      const trial = Number(cell.dataset.trial), button = pick(trial);
      cell.parentElement.dataset.row = trial;
      cell.firstChild.replaceWith(button);
    }

    function drawPlot() {
      const [x, y] = [Number(selectX.value), Number(selectY.value)];
      const width = Math.max(plot.clientWidth, 260), height = Math.round(Math.min(470, Math.max(290, width * 0.68)));
      const edge = { left: 58, right: 16, top: 12, bottom: 46 };
      const across = values[x], alone = place.get(columns[y].alone);
      const series = [values[y], ...(alone === undefined ? [] : [values[alone]])];
      const known = (column, trial) => across[trial] !== null && column[trial] !== null;
      const scale = (axis, lists, from, to) => {
        let low = Infinity, high = -Infinity;
        for (const list of lists) for (const trial of all) {
          const value = list[trial];
          if (value !== null && across[trial] !== null) { low = Math.min(low, value); high = Math.max(high, value); }
        }
        if (low > high) return null;
        const room = (high - low || Math.abs(high) || 1) * 0.06;
        low -= room; high += room;
        const column = columns[axis], largest = Math.max(Math.abs(low), Math.abs(high));
        const power = column.as === "si" ? Math.min(Math.max(Math.floor(Math.log10(largest) / 3), 0), 5) : 0;
        const factor = column.as === "percent" ? 100 : 1000 ** -power, unit = PREFIXES[power] + column.unit;
        const ticks = marks(low * factor, high * factor, Math.abs(to - from) / (axis === x ? 90 : 60));
        return { title: column.title + (unit ? ` (${unit})` : ""), pixel: (value) => from + ((value - low) / (high - low)) * (to - from), ticks: ticks.map((tick) => [tick, tick / factor]) };
      };
      const sx = scale(x, [across], edge.left, width - edge.right), sy = scale(y, series, height - edge.bottom, edge.top);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("aria-label", `${columns[y].title} against ${columns[x].title}; arrow keys walk along the front`);
      circles.clear();
      at = [];
      if (!sx || !sy) {
        svg.replaceChildren(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No trial has both of these figures."));
        return;
      }
      const point = (column, trial) => [sx.pixel(across[trial]), sy.pixel(column[trial])];
      const path = (found, column, shape) => found.map((trial) => shape(...point(column, trial).map((value) => value.toFixed(1)))).join("");
      const isIn = new Set(matched), dots = all.length < 300 ? "dots few" : "dots";
      const others = all.filter((trial) => known(values[y], trial) && !standing(trial));
      const members = all.filter((trial) => known(values[y], trial) && standing(trial));
      const dot = (px, py) => `M${px} ${py}h0`, diamond = (px, py) => `M${px} ${py - 5}l5 5l-5 5l-5-5z`;
      const corners = [];
      for (const trial of ordered(members, (each) => across[each], columns[x].up)) {
        const [px, py] = point(values[y], trial), last = corners.at(-1);
        if (last && (columns[y].up ? py >= last[1] : py <= last[1])) continue;
        if (last) corners.push([px, last[1]]);
        corners.push([px, py]);
      }
      const own = alone === undefined ? [] : all.filter((trial) => known(values[alone], trial));
      const reached = own.filter((trial) => isIn.has(trial));
      at = [...[...others, ...members].filter((trial) => isIn.has(trial)).map((trial) => [trial, ...point(values[y], trial)]), ...reached.map((trial) => [trial, ...point(values[alone], trial)])];
      const front = draw("g", {}, ...ordered(members, (trial) => across[trial], false).map((trial, number) => {
        const [cx, cy] = point(values[y], trial);
        const circle = draw("circle", {
          cx: cx.toFixed(1), cy: cy.toFixed(1), r: 5.5, role: "button", tabindex: number ? -1 : 0,
          class: [behind.has(trial) ? "member behind" : "member", isIn.has(trial) ? "" : "faint"].join(" ").trim(),
          "aria-label": `${data.labels[trial]}: ${columns[y].title} ${figure(y, trial)}, ${columns[x].title} ${figure(x, trial)}, ${standing(trial)}`,
          "aria-pressed": String(trial === selected),
          onfocus: (event) => { if (event.currentTarget.matches(":focus-visible")) tipOf(event, trial); }, onblur: hideTip,
          onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(trial); } },
        });
        circles.set(trial, circle);
        return circle;
      }));
      svg.replaceChildren(
        ...sx.ticks.flatMap(([text, value]) => [
          draw("line", { class: "grid", x1: sx.pixel(value), x2: sx.pixel(value), y1: edge.top, y2: height - edge.bottom }),
          draw("text", { x: sx.pixel(value), y: height - edge.bottom + 16, "text-anchor": "middle" }, String(text)),
        ]),
        ...sy.ticks.flatMap(([text, value]) => [
          draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: sy.pixel(value), y2: sy.pixel(value) }),
          draw("text", { x: edge.left - 7, y: sy.pixel(value) + 4, "text-anchor": "end" }, String(text)),
        ]),
        draw("text", { class: "title", x: (edge.left + width - edge.right) / 2, y: height - 8, "text-anchor": "middle" }, sx.title),
        draw("text", { class: "title", transform: `translate(13 ${(edge.top + height - edge.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, sy.title),
        draw("path", { class: `${dots} faint`, d: path(others.filter((trial) => !isIn.has(trial)), values[y], dot) }),
        draw("path", { class: dots, d: path(others.filter((trial) => isIn.has(trial)), values[y], dot) }),
        draw("path", { class: "line", d: corners.length ? `M${corners.map((corner) => corner.map((value) => value.toFixed(1)).join(" ")).join("L")}` : "" }),
        draw("path", { class: "alone", d: alone === undefined ? "" : path(reached, values[alone], (px, py) => diamond(px, Number(py))) }),
        front,
        draw("circle", { class: "ring", r: 9 }),
      );
      byId("legend-alone").hidden = !own.length;
      byId("legend-behind").hidden = !behind.size;
      ring();
    }

    function ring() {
      const mark = svg.querySelector(".ring"), found = at.find(([trial]) => trial === selected);
      if (!mark) return;
      mark.classList.toggle("off", !found);
      if (found) { mark.setAttribute("cx", found[1]); mark.setAttribute("cy", found[2]); }
    }

    function nearest(event) {
      const box = svg.getBoundingClientRect(), to = svg.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * to, py = (event.clientY - box.top) * to;
      let best = null, least = NEAR;
      for (const [trial, x, y] of at) {
        const away = Math.hypot(x - px, y - py) - (standing(trial) ? 3 : 0); // the front first, where points are close
        if (away < least) { least = away; best = trial; }
      }
      return best;
    }
    function tipOf(event, trial) {
      const rows = main.filter((column) => values[column][trial] !== null).map((column) => [columns[column].title, figure(column, trial)]);
      const few = chosen(trial);
      rows.push(...(few.length > FEW ? [["choices", `${few.length}: click to see them`]] : few));
      showTip(event, data.labels[trial], rows, standing(trial));
    }
    svg.addEventListener("pointermove", (event) => {
      const trial = nearest(event);
      svg.classList.toggle("over", trial !== null);
      if (trial === null) hideTip(); else tipOf(event, trial);
    });
    svg.addEventListener("pointerleave", hideTip);
    svg.addEventListener("click", (event) => {
      const trial = nearest(event);
      if (trial !== null) select(trial);
    });
    walk(svg, ".member");
    walk(byId("trials"), ".pick");

    function select(trial) {
      circles.get(selected)?.setAttribute("aria-pressed", "false");
      selected = trial;
      circles.get(trial)?.setAttribute("aria-pressed", "true");
      for (const row of document.querySelectorAll("tr[data-row]")) {
        if (Number(row.dataset.row) === trial) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
      }
      intoView(byId("trials").querySelector("tr[aria-current]"));
      ring();
      const listed = (rows) => make("dl", {}, ...rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
      const figures = columns.map((_, column) => column).filter((column) => values[column][trial] !== null && columns[column].name !== "trial");
      const text = command(trial), said = make("span", { role: "status" });
      const code = make("code", {}, text);
      details.replaceChildren(
        make("h3", {}, data.labels[trial]),
        ...(standing(trial) ? [make("p", { class: "quiet" }, standing(trial))] : []),
        ...(text ? [make("pre", {}, code), make("p", {}, make("button", { type: "button", onclick: () => copy(text, code, said) }, "Copy the command"), " ", said)] : []),
        listed([["trial", String(values[place.get("trial")][trial])], ...figures.map((column) => [columns[column].title, figure(column, trial)]), ...(when.get(trial) ?? [])]),
        ...(choices.length ? [make("h4", {}, "Choices"), listed(chosen(trial))] : []),
      );
      details.scrollTop = 0;
    }
    function intoView(row) { // within its table: the page stays where it is
      const box = row?.closest(".window"), head = 40;
      if (box && (row.offsetTop < box.scrollTop + head || row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight)) box.scrollTop = row.offsetTop - head;
    }
    async function copy(text, code, said) {
      try {
        await navigator.clipboard.writeText(text);
      } catch { // a browser that forbids it to files
        window.getSelection().selectAllChildren(code);
        if (!document.execCommand("copy")) { said.textContent = "Selected; copy it by the keyboard."; return; }
      }
      said.textContent = "Copied.";
    }

    // A word is found in labels and in choices as name=value, without looking at each trial's choices again.
    function finds(word) {
      const hits = choices.map((choice) => choice.values.map((value) => `${choice.name}=${value}`.toLowerCase().includes(word)));
      const some = hits.map((hit, choice) => [hit, codes[choice]]).filter(([hit]) => hit.includes(true));
      return (trial) => data.labels[trial].toLowerCase().includes(word) || some.some(([hit, code]) => hit[code[trial]]);
    }
    function filter() {
      const tests = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean).map(finds);
      if (byId("front-only").checked) tests.push((trial) => onFront.has(trial));
      for (const { column, least, value } of limits) {
        tests.push((trial) => values[column][trial] !== null && (least ? values[column][trial] >= value : values[column][trial] <= value));
      }
      matched = all.filter((trial) => tests.every((test) => test(trial)));
      const held = data.total > all.length ? `, ${all.length.toLocaleString("en")} of them on this page: the rest is in trials.csv` : "";
      count.textContent = `${matched.length.toLocaleString("en")} of ${data.total.toLocaleString("en")} trials${held}`;
      show(matched);
      drawPlot();
    }
    const limited = byId("limited"), side = byId("side"), bound = byId("bound");
    limited.append(...columns.map((column, number) => make("option", { value: number, selected: number === data.axes[0] }, column.title)));
    const suggest = () => { side.value = columns[limited.value].up ? "least" : "most"; };
    limited.addEventListener("change", suggest);
    suggest();
    byId("filter").addEventListener("submit", (event) => {
      event.preventDefault();
      const column = Number(limited.value), found = number(bound.value);
      bound.setAttribute("aria-invalid", String(found === null));
      if (found === null) return;
      limits.push({ column, least: side.value === "least", value: columns[column].as === "percent" ? found / 100 : found });
      bound.value = "";
      drawLimits();
    });
    function drawLimits() {
      byId("limits").replaceChildren(...limits.map((limit) => make("button", {
        type: "button", class: "limit", "aria-label": `Remove the limit on ${columns[limit.column].title}`,
        onclick: () => { limits = limits.filter((other) => other !== limit); drawLimits(); },
      }, `${columns[limit.column].title} ${limit.least ? "≥" : "≤"} ${written(columns[limit.column], limit.value)} ×`)));
      filter();
    }
    byId("words").addEventListener("input", filter);
    byId("front-only").addEventListener("change", filter);

    byId("explorer").hidden = false;
    filter();
    onWidth(plot, drawPlot);
    return select;
  }

  // --- failures ---

  function failures() {
    const { labels, reasons, seconds } = data.failed;
    if (!labels.length) return;
    const took = { as: "plain", unit: "s" };
    const show = grid(byId("failures"), "Trials that failed", [
      { title: "architecture", value: (at) => labels[at], cell: (at) => labels[at], wide: true },
      { title: "reason", value: (at) => reasons[at], cell: (at) => reasons[at], wide: true },
      { title: "seconds", value: (at) => seconds[at], cell: (at) => written(took, seconds[at]) },
    ]);
    show(labels.map((_, at) => at));
  }

  // --- who did what when ---

  const when = new Map(); // trial -> rows of its details
  const KINDS = ["trial", "trained alone", "failed trial"];
  const { origin, workers, sessions } = data.timeline;
  const clock = (seconds) => `${new Date((origin + seconds) * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const took = (seconds) => (seconds < 120 ? `${+seconds.toPrecision(3)} s` : seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`);
  for (const { name, start, seconds, kind, trial } of workers) {
    trial.forEach((each, at) => {
      if (each < 0) return;
      const row = [kind[at] === 1 ? "trained alone" : "worked on", `from ${clock(start[at])}, ${took(seconds[at])}, by ${name}`];
      when.set(each, [...(when.get(each) ?? []), row]);
    });
  }

  function timeline(select) {
    const host = byId("timeline"), svg = host.querySelector("svg"), choice = byId("period");
    const ends = workers.map(({ start, seconds }) => start.reduce((most, from, at) => Math.max(most, from + seconds[at]), 0));
    const last = Math.max(...ends, ...sessions.map(([start, end]) => end ?? start), 1);
    const closed = sessions.map(([start, end], at) => [start, end ?? Math.max(start, Math.min(last, sessions[at + 1]?.[0] ?? last))]);
    choice.append(make("option", { value: -1 }, "the whole run"), ...sessions.map(([start], at) => make("option", { value: at }, `session ${at + 1}, ${clock(start)}`)));
    byId("zoom").hidden = sessions.length < 2;
    let seen = null;
    const LANE = 30, TOP = 6, LEFT = 6;

    function drawLanes() {
      const width = Math.max(host.clientWidth, 260), height = TOP + LANE * workers.length + 30;
      const [from, to] = choice.value < 0 ? [0, last] : closed[choice.value];
      const span = Math.max(to - from, 1e-3), pixel = (time) => LEFT + ((time - from) / span) * (width - 2 * LEFT);
      const unit = span > 7200 ? ["h", 3600] : span > 120 ? ["min", 60] : ["s", 1];
      seen = { from, to, pixel, span, width };
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const bar = (x, y, w) => `M${x.toFixed(1)} ${y}h${w.toFixed(1)}v12h-${w.toFixed(1)}z`;
      const lanes = workers.flatMap(({ name, start, seconds, kind }, lane) => {
        const top = TOP + lane * LANE, paths = ["", "", ""];
        start.forEach((begin, at) => {
          const end = begin + seconds[at];
          if (end < from || begin > to) return;
          const left = pixel(Math.max(begin, from)), right = pixel(Math.min(end, to));
          paths[kind[at]] += bar(left, top + 15, Math.max(right - left, 0.6));
        });
        return [draw("text", { x: LEFT, y: top + 11 }, name), ...paths.map((d, at) => draw("path", { class: `span kind${at}`, d }))];
      });
      const bottom = TOP + LANE * workers.length;
      svg.replaceChildren(
        ...closed.filter(([start, end]) => end >= from && start <= to).map(([start, end]) => draw("rect", {
          class: "session", x: pixel(Math.max(start, from)).toFixed(1), y: 0, height: bottom,
          width: Math.max(pixel(Math.min(end, to)) - pixel(Math.max(start, from)), 1).toFixed(1),
        })),
        ...marks(0, span / unit[1], Math.max(width / 110, 2)).flatMap((tick) => [
          draw("line", { class: "grid", x1: pixel(from + tick * unit[1]), x2: pixel(from + tick * unit[1]), y1: 0, y2: bottom + 4 }),
          draw("text", { x: Math.min(pixel(from + tick * unit[1]), width - 22), y: bottom + 18, "text-anchor": tick ? "middle" : "start" }, `${tick} ${unit[0]}`),
        ]),
        ...lanes,
      );
    }
    function under(event) {
      const box = svg.getBoundingClientRect(), to = svg.viewBox.baseVal.width / box.width;
      const worker = workers[Math.floor(((event.clientY - box.top) * to - TOP) / LANE)];
      if (!worker) return null;
      const px = (event.clientX - box.left) * to;
      let best = -1, least = 4;
      worker.start.forEach((begin, at) => {
        const away = Math.max(seen.pixel(begin) - px, px - seen.pixel(begin + worker.seconds[at]), 0);
        if (away < least) { least = away; best = at; }
      });
      return best < 0 ? null : { worker, at: best };
    }
    svg.addEventListener("pointermove", (event) => {
      const found = under(event);
      svg.classList.toggle("over", found !== null);
      if (!found) { hideTip(); return; }
      const { worker, at } = found, trial = worker.trial[at];
      showTip(event, trial < 0 ? worker.labels[at] : data.labels[trial], [
        ["what", KINDS[worker.kind[at]]], ["from", clock(worker.start[at])], ["for", took(worker.seconds[at])], ["by", worker.name],
      ]);
    });
    svg.addEventListener("pointerleave", hideTip);
    svg.addEventListener("click", (event) => {
      const found = under(event);
      if (found && select && found.worker.trial[found.at] >= 0) select(found.worker.trial[found.at]);
    });
    choice.addEventListener("change", drawLanes);
    host.hidden = false;
    drawLanes();
    onWidth(host, drawLanes);
  }

  const select = all.length ? explore() : null;
  failures();
  if (workers.length) timeline(select);
  for (const element of document.querySelectorAll(".replaced")) element.hidden = true; // what now stands there in a better form
})();
