// What all parts of the page are made of. Everything that comes from outside is set as text, never as markup.
export const $ = (id) => document.getElementById(id);

// Who has signed in, and what the page does when that changes (changed) or when a view is to be drawn anew (render).
export const session = { csrf: sessionStorage.getItem("csrf") || "", me: null, changed() {}, async render() {} };

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((one) => one != null));
  return made;
}

export function complain(text) {
  $("status").hidden = true;
  $("message").textContent = text;
  $("message").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { $("message").hidden = true; }, 8000);
}

// Says what was done, also to screen readers.
export function tell(text) {
  $("message").hidden = true;
  $("status").textContent = text;
  $("status").hidden = false;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { $("status").hidden = true; }, 6000);
}

const headers = () => ({ "X-CSRF-Token": session.csrf, Accept: "application/json, text/plain, */*" });

// What an answer holds: JSON or text. An error is thrown with the server's words.
function read(status, statusText, text) {
  let found = text;
  try { found = JSON.parse(text); } catch { /* plain text */ }
  if (status >= 200 && status < 300) return found;
  if (status === 401 && session.me) { session.me = null; session.changed(); }
  const said = found && typeof found === "object" ? [found.error, found.details, found.resolution].filter(Boolean).join(": ") : text.trim();
  throw new Error(said || `${status} ${statusText}`);
}

async function reach(path, options) {
  try { return await fetch(path, options); } catch { throw new Error("hypercloud does not answer."); }
}

export async function ask(method, path, body) {
  const sent = body === undefined ? headers() : { ...headers(), "Content-Type": "application/json" };
  const answer = await reach(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  return read(answer.status, answer.statusText, await answer.text());
}

// The content of a file of the server, as a Blob.
export async function load(path) {
  const answer = await reach(path, { headers: headers() });
  if (!answer.ok) read(answer.status, answer.statusText, await answer.text());
  return { type: answer.headers.get("Content-Type"), blob: await answer.blob() };
}

// Sends something large. sent is told which part of it has gone (0 to 1), line gets each JSON object of the answer as it comes.
export function send(method, path, body, { sent = () => {}, line, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let at = 0;
    const lines = () => {
      if (!line || request.status < 200 || request.status > 299) return;
      for (let end; (end = request.responseText.indexOf("\n", at)) >= 0; at = end + 1) {
        const one = JSON.parse(request.responseText.slice(at, end));
        if (one.error) { reject(new Error([one.error, one.details].filter(Boolean).join(": "))); return; }
        line(one);
      }
    };
    request.open(method, path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    if (typeof body === "string") request.setRequestHeader("Content-Type", "application/json");
    request.upload.addEventListener("progress", (event) => { if (event.total) sent(event.loaded / event.total); });
    request.addEventListener("progress", lines);
    request.addEventListener("error", () => reject(new Error("The connection has ended.")));
    request.addEventListener("abort", () => reject(new Error("It was stopped.")));
    request.addEventListener("load", () => {
      lines();
      try { resolve(line && request.status < 300 ? null : read(request.status, request.statusText, request.responseText)); } catch (error) { reject(error); }
    });
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

export const attempt = (work) => async (event) => {
  event?.preventDefault?.();
  const button = event?.submitter || event?.currentTarget;
  const busy = (yes) => { if (button?.tagName === "BUTTON") { button.disabled = yes; button.setAttribute("aria-busy", yes); } };
  busy(true);
  try { await work(event); } catch (error) { complain(error.message); } finally { busy(false); }
};

export function button(text, work, { danger = false, label, sure, stays = false } = {}) {
  return el("button", { type: "button", class: danger && "danger", "aria-label": label, onclick: attempt(async (event) => {
    if (sure && !confirm(sure)) return;
    await work(event);
    if (!stays && !work.stays) await session.render();
  }) }, text);
}
export const staying = (work) => Object.assign(work, { stays: true });

export function table(caption, columns, rows) {
  const body = rows.map((row) => el("tr", {}, ...row.map((cell, index) => el("td", { "data-label": columns[index], class: Array.isArray(cell) && "actions" },
    ...(Array.isArray(cell) ? cell : [cell instanceof Node ? cell : String(cell ?? "")])))));
  return el("div", { class: "scroll" }, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, ...columns.map((one) => el("th", { scope: "col" }, one)))), el("tbody", {}, ...body)));
}

// A form. A field is [name, label, attributes]; instead of attributes of an input: area (a text), options (a choice).
export function form(fields, title, work, { stays = false } = {}) {
  const made = el("form", { class: "stack", onsubmit: attempt(async (event) => {
    await work(Object.fromEntries(new FormData(event.target)), event.target);
    if (!stays) await session.render();
  }) }, el("h3", {}, title));
  for (const [name, label, extra = {}] of fields) made.append(el("label", {}, label, control(name, extra)));
  made.append(el("button", { type: "submit" }, title));
  return made;
}

function control(name, { area, options, ...extra }) {
  if (area) return el("textarea", { name, spellcheck: "false", ...extra });
  if (options) return el("select", { name, ...extra }, ...options.map((one) => el("option", { value: one }, one)));
  return el("input", { name, ...extra });
}

export function socket(path, message) {
  const made = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`);
  made.binaryType = "arraybuffer";
  made.addEventListener("message", message);
  return made;
}

// A websocket that is opened again when it was lost, until the signal.
export function lasting(path, signal, message) {
  let made = null;
  const open = () => {
    if (signal.aborted) return;
    made = socket(path, message);
    made.addEventListener("close", () => setTimeout(open, 2000));
  };
  signal.addEventListener("abort", () => made?.close());
  open();
}

// Resolves when no button of the mouse is down: a click on what is replaced meanwhile would be lost.
let held = null;
addEventListener("pointerdown", () => { held = new Promise((done) => {
  const over = () => setTimeout(() => { held = null; done(); }); // after the click
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, over, { once: true, capture: true });
}); }, true);
export const released = async () => { while (held) await held; };

// A part of a view that is drawn anew when what it shows has changed, and only then: what has the focus would lose it.
export async function following(signal, load, draw) {
  const box = el("div");
  let last = "";
  const look = async () => {
    const found = await load();
    const text = JSON.stringify(found, (key, value) => (key === "response_time" ? null : value)); // another one each time, shown nowhere
    if (text === last) return;
    await released();
    if (signal.aborted) return;
    last = text;
    const focus = box.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    box.replaceChildren(...draw(found));
    if (focus) [...box.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focus)?.focus();
  };
  await look();
  const timer = setInterval(() => look().catch((error) => { if (!signal.aborted) complain(error.message); }), 2000); // it may be back soon
  signal.addEventListener("abort", () => clearInterval(timer));
  if (signal.aborted) clearInterval(timer);
  return box;
}

export function dialog(title, inside, closed = () => {}) {
  $("inside").replaceChildren(el("h2", {}, title), inside);
  // What was shown goes with the dialog: it may be a key. Messages come with it: all beside an open dialog is out of reach.
  $("dialog").addEventListener("close", () => { closed(); $("inside").replaceChildren(); document.body.append($("message"), $("status")); }, { once: true });
  $("dialog").append($("message"), $("status"));
  $("dialog").showModal();
}

// A size in the unit that suits it.
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; Math.abs(count) >= 1024 && at < units.length - 1; at += 1) count /= 1024;
  return `${at && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[at]}`;
}

export const state = (text, good) => el("span", { class: good ? "good" : "bad" }, text);
