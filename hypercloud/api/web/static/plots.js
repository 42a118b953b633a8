// Live plots of CPU, memory and network, drawn by uPlot; the newest values stand beside them as text.
import { bytes, dialog, el, lasting } from "./base.js";

const SPAN = 300; // seconds that are shown
const GAP = 12; // seconds without a reading after which the line is interrupted
const COLOURS = 6; // classes c0 to c5 of the style sheet
const dark = matchMedia("(prefers-color-scheme: dark)");
const percent = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
const rate = (value) => `${bytes(value)}/s`;
const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power); // steps of an axis of bytes
// What is plotted: title, how a value is written, and which columns of a reading (time, cpu, memory, received, sent) with their line.
const KINDS = [
  { title: "CPU, percent of one CPU", write: percent, lines: [[1, "", []]] },
  { title: "Memory", write: bytes, lines: [[2, "", []]] },
  { title: "Network, bytes a second", write: rate, lines: [[3, "received", []], [4, "sent (dashed)", [5, 4]]] },
];

async function library() {
  try {
    if (!document.querySelector("link[href$='uPlot.min.css']")) document.head.append(el("link", { rel: "stylesheet", href: "/web/static/vendor/uPlot.min.css" }));
    return (await import("/web/static/vendor/uPlot.esm.js")).default;
  } catch { return null; }
}

// The readings of all things that one websocket tells of.
class Readings {
  constructor() { this.of = new Map(); }

  add(news) {
    for (const { of, points } of news) {
      const kept = this.of.get(of) || [];
      for (const point of points) {
        const last = kept.at(-1);
        if (last && point[0] <= last[0]) continue; // the connection was made anew
        if (last && point[0] - last[0] > GAP) kept.push([last[0] + 1, null, null, null, null]);
        kept.push(point);
      }
      const begin = kept.at(-1)[0] - SPAN;
      this.of.set(of, kept.filter((point) => point[0] >= begin));
    }
  }

  names() { return [...this.of.keys()].sort(); }

  newest(name) { return this.of.get(name).at(-1); }

  // The columns of several things over one time, as uPlot wants them: undefined where one has no reading at a time of another.
  columns(Plot, names, wanted) {
    return Plot.join(names.map((name) => {
      const points = this.of.get(name);
      return [points.map((point) => point[0]), ...wanted.map((column) => points.map((point) => point[column]))];
    }));
  }
}

class Plots {
  constructor(Plot, readings, about) {
    Object.assign(this, { Plot, readings, about, made: [], names: "" });
    this.node = el("div", { class: "plots" });
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.node);
    this.again = () => { for (const { plot } of this.made) plot.redraw(false, true); };
    dark.addEventListener("change", this.again);
  }

  close() { this.watch.disconnect(); dark.removeEventListener("change", this.again); for (const { plot } of this.made) plot.destroy(); }

  fit() { for (const { plot, box } of this.made) if (box.clientWidth) plot.setSize({ width: box.clientWidth, height: 170 }); }

  draw() {
    const names = this.readings.names();
    if (names.join("\n") !== this.names) this.make(names);
    const now = Date.now() / 1000;
    for (const { plot, kind } of this.made) {
      plot.setData(this.readings.columns(this.Plot, names, kind.lines.map(([column]) => column)), false);
      plot.batch(() => { plot.setScale("x", { min: now - SPAN, max: now }); plot.setScale("y", { min: 0, max: 0 }); });
    }
  }

  make(names) {
    for (const { plot } of this.made) plot.destroy();
    this.names = names.join("\n");
    this.made = [];
    this.node.replaceChildren(...KINDS.map((kind) => {
      const box = el("div", { class: "plot", role: "img", "aria-label": `${kind.title} of ${this.about} in the last five minutes. The newest values stand above as text.` });
      const at = el("p", { class: "at", "aria-hidden": "true" }, " ");
      const plot = new this.Plot(this.options(kind, names, at), null, box);
      this.made.push({ plot, kind, box });
      return el("figure", {}, el("figcaption", {}, kind.title), box, at);
    }));
    this.fit();
  }

  options(kind, names, at) {
    const colour = (index) => () => getComputedStyle(this.node.parentElement?.querySelector(`.c${index % COLOURS}`) || this.node).color;
    const series = names.flatMap((name, index) => kind.lines.map(([, words, dash]) => (
      { label: [name, words].filter(Boolean).join(" "), stroke: colour(index), width: 2, dash, points: { show: false } })));
    const text = () => getComputedStyle(this.node).color;
    const grid = () => getComputedStyle(this.node).borderTopColor;
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    return {
      width: 300, height: 170, legend: { show: false }, cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: (plot) => [0, Math.max(kind.write === percent ? 5 : 1024, ...plot.data.slice(1).flat().filter(Boolean)) * 1.1] } },
      axes: [{ ...axis, values: "{HH}:{mm}", incrs: [60, 120], space: 40, size: 32 }, { ...axis, size: 78, space: 34, ...(kind.write === percent ? {} : { incrs: POWERS }), values: (_plot, values) => values.map((value) => (value == null ? "" : kind.write(value))) }],
      series: [{}, ...series],
      hooks: { setCursor: [(plot) => {
        const where = plot.cursor.idx;
        const values = where == null ? [] : series.map((one, index) => [one.label, plot.data[index + 1][where]]).filter(([, value]) => value != null);
        at.textContent = values.length ? `${new Date(plot.data[0][where] * 1000).toLocaleTimeString()}: ${values.map(([label, value]) => `${label} ${kind.write(value)}`).join(", ")}` : " ";
      }] },
    };
  }
}

// Follows the readings of a websocket until the signal; text makes the part that stands above the plots from the newest ones.
export async function plots(path, signal, about, text) {
  const readings = new Readings();
  const above = el("div", {}, el("p", {}, "The first readings come in some seconds."));
  const box = el("div", { class: "readings" }, above);
  const Plot = await library();
  const drawn = Plot && new Plots(Plot, readings, about);
  box.append(drawn ? drawn.node : el("p", {}, "The plots are not installed: run scripts/build-web on the server."));
  const show = () => { if (!readings.of.size) return; above.replaceChildren(text(readings)); drawn?.draw(); };
  if (signal.aborted) { drawn?.close(); return box; }
  const refused = new AbortController();
  lasting(path, AbortSignal.any([signal, refused.signal]), (event) => {
    const news = JSON.parse(event.data);
    if (news.error) { // there are none, and there will be none: neither ask again nor leave empty plots
      refused.abort();
      drawn?.node.remove();
      above.replaceChildren(el("p", {}, news.error));
      return;
    }
    readings.add(news);
    show();
  });
  const timer = setInterval(() => { if (drawn && readings.of.size) drawn.draw(); }, 2000); // time goes on without readings, too
  signal.addEventListener("abort", () => { clearInterval(timer); drawn?.close(); });
  return box;
}

const cells = ([, cpu, memory, received, sent]) => (cpu == null ? ["", "", "", ""] : [percent(cpu), bytes(memory), rate(received), rate(sent)]);

// A table of the newest readings, one line for each thing, with its colour.
export function newest(readings) {
  const columns = ["Engine", "CPU", "Memory", "Received", "Sent"];
  const rows = readings.names().map((name, index) => [[el("span", { class: `swatch c${index % COLOURS}` }), name], ...cells(readings.newest(name))]);
  return el("div", { class: "scroll" }, el("table", { "aria-label": "What the containers of each engine use" },
    el("thead", {}, el("tr", {}, ...columns.map((one) => el("th", { scope: "col" }, one)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, at) => el("td", { "data-label": columns[at] }, el("span", {}, ...[cell].flat()))))))));
}

function cards(readings) {
  const [name] = readings.names();
  const values = cells(readings.newest(name));
  return el("div", { class: "cards" }, ...["CPU", "Memory", "Received", "Sent"].map((title, at) => el("div", { class: "card" }, title, el("b", {}, values[at]))), el("span", { class: "swatch c0", hidden: true }));
}

// The dialog with the figures of a container.
export async function figures(one) {
  const left = new AbortController();
  const box = await plots(`/web/containers/${one.id}/readings`, left.signal, one.name, cards);
  dialog(`Figures of ${one.name}`, box, () => left.abort());
}
