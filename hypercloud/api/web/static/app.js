// The page. Everything that comes from outside is set as text, never as markup.
const $ = (id) => document.getElementById(id);
let csrf = sessionStorage.getItem("csrf") || "";
let me = null;
let here = new AbortController(); // aborted when the view is left

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((one) => one != null));
  return made;
}

function complain(text) {
  $("message").textContent = text;
  $("message").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { $("message").hidden = true; }, 8000);
}

async function ask(method, path, body) {
  const headers = { "X-CSRF-Token": csrf, Accept: "application/json, text/plain, */*" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  let found = text;
  try { found = JSON.parse(text); } catch { /* plain text */ }
  if (answer.ok) return found;
  if (answer.status === 401 && me) { me = null; show(); }
  const said = typeof found === "object" ? [found.error, found.details, found.resolution].filter(Boolean).join(": ") : text.trim();
  throw new Error(said || `${answer.status} ${answer.statusText}`);
}

const attempt = (work) => async (event) => {
  event?.preventDefault?.();
  const button = event?.submitter || event?.currentTarget;
  if (button?.tagName === "BUTTON") button.disabled = true;
  try { await work(event); } catch (error) { complain(error.message); } finally { if (button?.tagName === "BUTTON") button.disabled = false; }
};

function button(text, work, { danger = false, label, sure } = {}) {
  return el("button", { type: "button", class: danger && "danger", "aria-label": label, onclick: attempt(async (event) => {
    if (sure && !confirm(sure)) return;
    await work(event);
    if (!work.stays) await render();
  }) }, text);
}
const staying = (work) => Object.assign(work, { stays: true });

function table(caption, columns, rows) {
  const body = rows.map((row) => el("tr", {}, ...row.map((cell, index) => el("td", { "data-label": columns[index], class: Array.isArray(cell) && "actions" },
    ...(Array.isArray(cell) ? cell : [cell instanceof Node ? cell : String(cell ?? "")])))));
  return el("div", { class: "scroll" }, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, ...columns.map((one) => el("th", { scope: "col" }, one)))), el("tbody", {}, ...body)));
}

function form(fields, title, work) {
  const made = el("form", { class: "stack", onsubmit: attempt(async (event) => {
    await work(Object.fromEntries(new FormData(event.target)));
    await render();
  }) }, el("h3", {}, title));
  for (const [name, label, extra = {}] of fields) {
    made.append(el("label", {}, label, extra.area ? el("textarea", { name, required: true, spellcheck: "false" }) : el("input", { name, ...extra })));
  }
  made.append(el("button", { type: "submit" }, title));
  return made;
}

function socket(path, message) {
  const made = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`);
  made.binaryType = "arraybuffer";
  made.addEventListener("message", message);
  return made;
}

// A part of a view that is drawn anew when what it shows has changed, and only then: what has the focus would lose it.
async function following(signal, load, draw) {
  const box = el("div");
  let last = "";
  const look = async () => {
    const found = await load();
    const text = JSON.stringify(found);
    if (text === last || signal.aborted) return;
    last = text;
    const focus = box.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    box.replaceChildren(...draw(found));
    if (focus) [...box.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focus)?.focus();
  };
  await look();
  const timer = setInterval(() => look().catch(() => clearInterval(timer)), 2000);
  signal.addEventListener("abort", () => clearInterval(timer));
  if (signal.aborted) clearInterval(timer);
  return box;
}

function dialog(title, inside, closed = () => {}) {
  $("inside").replaceChildren(el("h2", {}, title), inside);
  // What was shown goes with the dialog: it may be a key.
  $("dialog").addEventListener("close", () => { closed(); $("inside").replaceChildren(); }, { once: true });
  $("dialog").showModal();
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const state = (text, good) => el("span", { class: good ? "good" : "bad" }, text);

function logs(one) {
  const out = el("pre", { tabindex: "0", "aria-label": "Output" });
  const stream = socket(`/web/containers/${one.id}/logs`, (event) => { out.append(event.data); out.scrollTop = out.scrollHeight; });
  dialog(`Logs of ${one.name}`, out, () => stream.close());
}

async function terminal(one) {
  let library;
  try { library = await import("/web/static/vendor/xterm.mjs"); } catch { throw new Error("The terminal is not installed: run scripts/build-web on the server."); }
  if (!document.querySelector("link[href$='xterm.css']")) document.head.append(el("link", { rel: "stylesheet", href: "/web/static/vendor/xterm.css" }));
  const { FitAddon } = await import("/web/static/vendor/addon-fit.mjs");
  const box = el("div", { id: "terminal" });
  const screen = new library.Terminal({ cursorBlink: true, screenReaderMode: true });
  const fit = new FitAddon();
  screen.loadAddon(fit);
  const stream = socket(`/web/containers/${one.id}/exec`, (event) => screen.write(new Uint8Array(event.data)));
  const size = () => { fit.fit(); if (stream.readyState === 1) stream.send(JSON.stringify({ rows: screen.rows, cols: screen.cols })); };
  stream.addEventListener("open", size);
  stream.addEventListener("close", () => screen.write("\r\n[ended]\r\n"));
  screen.onData((input) => stream.readyState === 1 && stream.send(JSON.stringify({ input })));
  addEventListener("resize", size);
  dialog(`Terminal in ${one.name}`, box, () => { removeEventListener("resize", size); stream.close(); screen.dispose(); });
  screen.open(box); size(); screen.focus();
}

function figures(one) {
  const out = el("div", { class: "cards" });
  const draw = async () => {
    const found = await ask("GET", `/web/containers/${one.id}/stats`);
    out.replaceChildren(...[["CPU", `${found.cpu} %`], ["Memory", megabytes(found.memory)], ["Received", megabytes(found.received)], ["Sent", megabytes(found.sent)]]
      .map(([name, value]) => el("div", { class: "card" }, name, el("b", {}, value))));
  };
  draw().catch((error) => complain(error.message));
  const timer = setInterval(() => draw().catch(() => clearInterval(timer)), 2000);
  dialog(`Figures of ${one.name}`, out, () => clearInterval(timer));
}

const views = {
  async Dashboard(signal) {
    return [await following(signal, () => Promise.all([ask("GET", "/api/cluster/info"), ask("GET", "/api/engines")]), ([info, engines]) => {
      const cards = [["Engines", info.engine_count], ["Running containers", info.container_count], ["Images", info.image_count],
        ["CPUs reserved", `${info.reserved_cpus} of ${info.cpus}`], ["MiB reserved", `${info.reserved_memory} of ${info.memory}`]];
      return [el("div", { class: "cards" }, ...cards.map(([name, value]) => el("div", { class: "card" }, name, el("b", {}, String(value))))),
        el("h3", {}, "Engines"), ...engines.map((one) => el("p", {}, `${one.engine.id}: `, state(one.health.status, one.health.status === "up"), ` ${one.docker_version || ""}`))];
    })];
  },
  async Engines() {
    const found = await ask("GET", "/api/engines");
    const rows = found.map((one) => [one.engine.id, one.engine.addr, state(one.health.status, one.health.status === "up"), one.engine.labels.join(", "), one.engine.cpus, one.engine.memory,
      me.role === "admin" ? [button("Remove", () => ask("DELETE", `/api/engines/${one.id}`), { danger: true, label: `Remove ${one.engine.id}`, sure: `Take ${one.engine.id} off the list? Its containers run on.` })] : ""]);
    const add = form([["id", "Name", { required: true }], ["addr", "Address", { required: true, placeholder: "https://10.1.2.3:2376" }], ["labels", "Labels, separated by commas"],
      ["cpus", "CPUs (0 = as it says)", { type: "number", step: "any", min: 0, value: 0 }], ["memory", "MiB (0 = as it says)", { type: "number", min: 0, value: 0 }],
      ["ca_cert", "CA certificate (PEM)"], ["ssl_cert", "Client certificate (PEM)"], ["ssl_key", "Client key (PEM)"]], "Add an engine",
    ({ id, addr, labels, cpus, memory, ...certificates }) => ask("POST", "/api/engines", { ...certificates,
      engine: { id, addr, cpus: Number(cpus), memory: Number(memory), labels: labels.split(",").map((one) => one.trim()).filter(Boolean) } }));
    return [table("Engines", ["Name", "Address", "Health", "Labels", "CPUs", "MiB", "Actions"], rows), me.role === "admin" ? add : null];
  },
  async Containers(signal) {
    const rows = (found) => found.map((one) => {
      const it = { id: one.id, name: one.name.slice(1) };
      const path = `/api/containers/${one.id}`;
      const doing = one.state.running
        ? [button("Stop", () => ask("GET", `${path}/stop`), { label: `Stop ${it.name}` }), button("Restart", () => ask("GET", `${path}/restart`), { label: `Restart ${it.name}` })]
        : [button("Start", () => ask("POST", `/web/containers/${one.id}/start`), { label: `Start ${it.name}` })];
      doing.push(button("Scale", async () => { const count = prompt("How many containers like this one?", "2"); if (count) await ask("GET", `${path}/scale?count=${encodeURIComponent(count)}`); }, { label: `Scale ${it.name}` }),
        button("Logs", staying(() => logs(it)), { label: `Logs of ${it.name}` }));
      if (one.state.running) doing.push(button("Terminal", staying(() => terminal(it)), { label: `Terminal in ${it.name}` }), button("Figures", staying(() => figures(it)), { label: `Figures of ${it.name}` }));
      doing.push(button("Remove", () => ask("DELETE", path), { danger: true, label: `Remove ${it.name}`, sure: `Remove ${it.name} and its volumes?` }));
      return [it.name, one.image.name, one.engine.id, state(one.state.running ? "running" : "stopped", one.state.running), one.ports.map((port) => `${port.port}→${port.container_port}`).join(" "), doing];
    });
    const run = form([["name", "Image", { required: true }], ["args", "Command"], ["labels", "Labels of the engine, separated by commas"], ["cpus", "CPUs", { type: "number", step: "any", value: 0.1 }],
      ["memory", "MiB", { type: "number", value: 64 }], ["port", "Publish a port of the container", { type: "number" }], ["count", "How many", { type: "number", value: 1, min: 1 }]], "Run a container",
    (data) => ask("POST", `/api/containers?count=${Number(data.count)}`, { name: data.name, args: data.args ? ["sh", "-c", data.args] : [], cpus: Number(data.cpus), memory: Number(data.memory), type: "service",
      labels: data.labels.split(",").map((one) => one.trim()).filter(Boolean), bind_ports: data.port ? [{ proto: "tcp", container_port: Number(data.port) }] : [] }));
    return [await following(signal, () => ask("GET", "/api/containers"), (found) => [table("Containers", ["Name", "Image", "Engine", "State", "Ports", "Actions"], rows(found))]), run];
  },
  async Stacks(signal) {
    const load = () => Promise.all([ask("GET", "/api/app/v1/stack/?limit=200"), ask("GET", "/api/app/v1/service/?limit=200")]);
    const live = (one) => one.state !== "Terminated";
    const actions = (one, more = []) => [...more, ...["Start", "Stop", "Redeploy"].map((verb) => button(verb, () => ask("POST", `${one.resource_uri}${verb.toLowerCase()}/`), { label: `${verb} ${one.name}` })),
      button("Terminate", () => ask("DELETE", one.resource_uri), { danger: true, label: `Terminate ${one.name}`, sure: `Terminate ${one.name} and its containers?` })];
    const running = (one) => state(one.state, one.state === "Running");
    const make = form([["name", "Name", { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9\\-]*" }], ["text", "Stack file (YAML)", { area: true }]], "Make and start a stack", async ({ name, text }) => {
      const services = await ask("POST", "/web/stackfile", { text });
      const made = await ask("POST", "/api/app/v1/stack/", { name, services });
      await ask("POST", `${made.resource_uri}start/`);
    });
    const draw = ([stacks, services]) => [table("Stacks", ["Name", "State", "Services", "Actions"], stacks.objects.filter(live).map((one) => [one.name, running(one), one.services.length, actions(one)])), el("h3", {}, "Services"),
      table("Services", ["Name", "Image", "State", "Containers", "In step", "Actions"], services.objects.filter(live).map((one) => [one.name, one.image_name, running(one), `${one.running_num_containers} of ${one.target_num_containers}`,
        one.synchronized ? "yes" : "redeploy", actions(one, [button("Scale", async () => { const count = prompt("How many containers?", one.target_num_containers); if (count) await ask("PATCH", one.resource_uri, { target_num_containers: Number(count) }); }, { label: `Scale ${one.name}` })])]))];
    return [await following(signal, load, draw), make];
  },
  async Images() {
    const found = await ask("GET", "/web/images");
    const rows = found.flatMap((one) => one.tags.map((tag) => [tag, one.engine, megabytes(one.size || 0), me.role === "admin" ? [button("Remove", () => ask("POST", "/web/images/remove", { engine: one.engine, name: tag }), { danger: true, label: `Remove ${tag} from ${one.engine}` })] : ""]));
    const pull = form([["name", "Image", { required: true }], ["engine", "Engine", { required: true }]], "Pull an image", (data) => ask("POST", "/web/images/pull", data));
    return [table("Images", ["Name", "Engine", "Size", "Actions"], rows), me.role === "admin" ? pull : null];
  },
  async Events(signal) {
    const list = el("tbody");
    const stream = socket("/web/events", (event) => {
      const one = JSON.parse(event.data);
      list.prepend(el("tr", {}, ...[new Date(one.time * 1000).toLocaleTimeString(), one.what, one.action, one.name, one.state].map((text) => el("td", {}, String(text)))));
      while (list.children.length > 500) list.lastChild.remove();
    });
    signal.addEventListener("abort", () => stream.close());
    return [el("div", { class: "scroll" }, el("table", { "aria-label": "Events as they happen" }, el("thead", {}, el("tr", {}, ...["Time", "What", "Action", "Name", "State"].map((one) => el("th", { scope: "col" }, one)))), list))];
  },
  async Accounts() {
    const keys = await ask("GET", "/web/apikeys");
    const parts = [el("h3", {}, "My API keys (Docker Cloud)"), table("API keys", ["Description", "Made", "Actions"], keys.map((one) => [one.description, new Date(one.created * 1000).toLocaleString(),
      [button("Revoke", () => ask("DELETE", `/web/apikeys/${one.id}`), { danger: true, label: `Revoke ${one.description}` })]])),
    form([["description", "Description", { required: true }]], "Make an API key", async (data) => { const made = await ask("POST", "/web/apikeys", data); dialog("API key", el("pre", {}, made.key)); })];
    parts.push(form([["password", "New password", { type: "password", required: true, autocomplete: "new-password" }]], "Change my password", async (data) => { await ask("POST", "/account/changepassword", data); me = null; show(); }));
    if (me.role === "admin") {
      const [people, services] = await Promise.all([ask("GET", "/api/accounts"), ask("GET", "/api/servicekeys")]);
      parts.push(el("h3", {}, "Accounts"), table("Accounts", ["Name", "Role", "Actions"], people.map((one) => [one.username, one.role.name, [button("Remove", () => ask("DELETE", "/api/accounts", { username: one.username }), { danger: true, label: `Remove ${one.username}`, sure: `Remove ${one.username}?` })]])),
        form([["username", "Name", { required: true }], ["password", "Password", { type: "password", required: true, autocomplete: "new-password" }], ["role", "Role", { value: "user", required: true }]], "Add an account",
          ({ username, password, role }) => ask("POST", "/api/accounts", { username, password, role: { name: role } })),
        el("h3", {}, "Service keys (Shipyard)"), table("Service keys", ["Description", "Key", "Actions"], services.map((one) => [one.description, `${one.key.slice(0, 6)}…`, [button("Revoke", () => ask("DELETE", "/api/servicekeys", { key: one.key }), { danger: true, label: `Revoke ${one.description}` })]])),
        form([["description", "Description", { required: true }]], "Make a service key", async (data) => { const made = await ask("POST", "/api/servicekeys", data); dialog("Service key", el("pre", {}, made.key)); }));
    }
    return parts;
  },
};

async function render() {
  if (!me) return;
  here.abort();
  here = new AbortController();
  const { signal } = here;
  const name = decodeURIComponent(location.hash.slice(1)) in views ? decodeURIComponent(location.hash.slice(1)) : "Dashboard";
  for (const link of $("nav").children) link.toggleAttribute("aria-current", link.textContent === name);
  try {
    const parts = (await views[name](signal)).filter(Boolean);
    if (!signal.aborted) $("view").replaceChildren(el("h2", {}, name), ...parts); // else another view was asked for since
  } catch (error) { if (!signal.aborted) complain(error.message); }
}

function show() {
  $("login").hidden = Boolean(me); $("view").hidden = $("nav").hidden = $("who").hidden = !me;
  if (!me) { here.abort(); csrf = ""; sessionStorage.removeItem("csrf"); $("login").querySelector("input").focus(); return; }
  $("name").textContent = `${me.username} (${me.role})`;
  $("nav").replaceChildren(...Object.keys(views).map((name) => el("a", { href: `#${name}` }, name)));
  render();
}

$("login").addEventListener("submit", attempt(async (event) => {
  me = await ask("POST", "/web/login", Object.fromEntries(new FormData(event.target)));
  csrf = me.csrf; sessionStorage.setItem("csrf", csrf);
  event.target.reset(); show();
}));
$("logout").addEventListener("click", attempt(async () => { await ask("POST", "/web/logout"); me = null; show(); }));
addEventListener("hashchange", () => { render(); $("main").focus(); });
if (csrf) ask("GET", "/web/me").then((found) => { me = found; show(); }, () => show()); else show();
