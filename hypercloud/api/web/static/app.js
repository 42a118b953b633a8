// The page: its views, and signing in and out.
import { $, ask, attempt, button, complain, dialog, el, following, form, lasting, released, session, socket, staying, state, table } from "./base.js";
import { files } from "./files.js";
import { images } from "./images.js";
import { figures, newest, plots } from "./plots.js";

let here = new AbortController(); // aborted when the view is left

function logs(one) {
  const out = el("pre", { tabindex: "0", role: "log", "aria-label": "Output" });
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

const views = {
  async Dashboard(signal) {
    const figures = await plots("/web/readings", signal, "the containers of each engine", newest);
    return [await following(signal, () => Promise.all([ask("GET", "/api/cluster/info"), ask("GET", "/api/engines")]), ([info, engines]) => {
      const cards = [["Engines", info.engine_count], ["Running containers", info.container_count], ["Images", info.image_count],
        ["CPUs reserved", `${info.reserved_cpus} of ${info.cpus}`], ["MiB reserved", `${Math.round(info.reserved_memory)} of ${Math.round(info.memory)}`]];
      return [el("div", { class: "cards" }, ...cards.map(([name, value]) => el("div", { class: "card" }, name, el("b", {}, String(value))))),
        el("h3", {}, "Engines"), ...engines.map((one) => el("p", {}, `${one.engine.id}: `, state(one.health.status, one.health.status === "up"), ` ${one.docker_version || ""}`))];
    }), el("h3", {}, "What containers use"), figures];
  },
  async Engines(signal) {
    const rows = (found) => found.map((one) => [one.engine.id, one.engine.addr, state(one.health.status, one.health.status === "up"), one.engine.labels.join(", "), one.engine.cpus, Math.round(one.engine.memory),
      session.me.role === "admin" ? [button("Remove", () => ask("DELETE", `/api/engines/${one.id}`), { danger: true, label: `Remove ${one.engine.id}`, sure: `Take ${one.engine.id} off the list? Its containers run on.` })] : ""]);
    const add = form([["id", "Name", { required: true }], ["addr", "Address", { required: true, placeholder: "https://10.1.2.3:2376" }], ["labels", "Labels, separated by commas"],
      ["cpus", "CPUs (0 = as it says)", { type: "number", step: "any", min: 0, value: 0 }], ["memory", "MiB (0 = as it says)", { type: "number", min: 0, value: 0 }],
      ["ca_cert", "CA certificate (PEM)"], ["ssl_cert", "Client certificate (PEM)"], ["ssl_key", "Client key (PEM)"]], "Add an engine",
    ({ id, addr, labels, cpus, memory, ...certificates }) => ask("POST", "/api/engines", { ...certificates,
      engine: { id, addr, cpus: Number(cpus), memory: Number(memory), labels: labels.split(",").map((one) => one.trim()).filter(Boolean) } }));
    const columns = ["Name", "Address", "Health", "Labels", "CPUs", "MiB", "Actions"];
    return [await following(signal, () => ask("GET", "/api/engines"), (found) => [table("Engines", columns, rows(found))]), session.me.role === "admin" ? add : null];
  },
  async Containers(signal) {
    const rows = (found) => found.map((one) => {
      const it = { id: one.id, name: one.name.slice(1) };
      const path = `/api/containers/${one.id}`;
      const admin = session.me.role === "admin"; // what the role user may do with containers is what Shipyard's API lets it
      const doing = one.state.running
        ? [button("Stop", () => ask("GET", `${path}/stop`), { label: `Stop ${it.name}` }), button("Restart", () => ask("GET", `${path}/restart`), { label: `Restart ${it.name}` })]
        : admin ? [button("Start", () => ask("POST", `/web/containers/${one.id}/start`), { label: `Start ${it.name}` })] : [];
      doing.push(button("Scale", async () => { const count = prompt("How many containers like this one?", "2"); if (count) await ask("GET", `${path}/scale?count=${encodeURIComponent(count)}`); }, { label: `Scale ${it.name}` }));
      if (admin) doing.push(button("Logs", staying(() => logs(it)), { label: `Logs of ${it.name}` }));
      if (admin && one.state.running) doing.push(button("Terminal", staying(() => terminal(it)), { label: `Terminal in ${it.name}` }), button("Figures", staying(() => figures(it)), { label: `Figures of ${it.name}` }));
      if (admin) doing.push(button("Files", staying(() => files(it)), { label: `Files of ${it.name}` }));
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
    const make = form([["name", "Name", { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9\\-]*" }], ["text", "Stack file (YAML)", { area: true, required: true }]], "Make and start a stack", async ({ name, text }) => {
      const services = await ask("POST", "/web/stackfile", { text });
      const made = await ask("POST", "/api/app/v1/stack/", { name, services });
      await ask("POST", `${made.resource_uri}start/`);
    });
    const draw = ([stacks, services]) => [table("Stacks", ["Name", "State", "Services", "Actions"], stacks.objects.filter(live).map((one) => [one.name, running(one), one.services.length, actions(one)])), el("h3", {}, "Services"),
      table("Services", ["Name", "Image", "State", "Containers", "In step", "Actions"], services.objects.filter(live).map((one) => [one.name, one.image_name, running(one), `${one.running_num_containers} of ${one.target_num_containers}`,
        one.synchronized ? "yes" : "redeploy", actions(one, [button("Scale", async () => { const count = prompt("How many containers?", one.target_num_containers); if (count) await ask("PATCH", one.resource_uri, { target_num_containers: Number(count) }); }, { label: `Scale ${one.name}` })])]))];
    return [await following(signal, load, draw), make];
  },
  Images: images,
  async Events(signal) {
    const list = el("tbody");
    const row = ({ time, what, action, name, state: how }) => el("tr", {}, ...[new Date(time).toLocaleTimeString(), what, action, name, how].map((text) => el("td", {}, String(text ?? ""))));
    let first = 0; // when the first came as it happened
    lasting("/web/events", signal, (event) => {
      for (const one of event.data.split("\n").map((line) => JSON.parse(line))) {
        first ||= one.time * 1000;
        list.prepend(row({ ...one, time: one.time * 1000 }));
      }
      while (list.children.length > 500) list.lastChild.remove();
    });
    const earlier = (await ask("GET", "/api/events?limit=100")).map((one) => ({ time: Date.parse(one.time), what: one.engine?.id || "cluster", action: one.type,
      name: one.container?.id?.slice(0, 12) || one.message, state: one.container?.image?.name }));
    list.append(...earlier.filter((one) => !first || one.time < first).map(row));
    return [el("div", { class: "scroll" }, el("table", { "aria-label": "Events as they happen" }, el("thead", {}, el("tr", {}, ...["Time", "What", "Action", "Name", "State"].map((one) => el("th", { scope: "col" }, one)))), list))];
  },
  async Accounts() {
    const keys = await ask("GET", "/web/apikeys");
    const parts = [el("h3", {}, "My API keys (Docker Cloud)"), table("API keys", ["Description", "Made", "Actions"], keys.map((one) => [one.description, new Date(one.created * 1000).toLocaleString(),
      [button("Revoke", () => ask("DELETE", `/web/apikeys/${one.id}`), { danger: true, label: `Revoke ${one.description}` })]])),
    form([["description", "Description", { required: true }]], "Make an API key", async (data) => { const made = await ask("POST", "/web/apikeys", data); dialog("API key", el("pre", {}, made.key)); })];
    parts.push(form([["password", "New password", { type: "password", required: true, autocomplete: "new-password" }]], "Change my password", async (data) => { await ask("POST", "/account/changepassword", data); session.me = null; show(); }));
    if (session.me.role === "admin") {
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

// What has the focus, so that it can have it again when the view was drawn anew.
function focused() {
  const one = document.activeElement;
  if (!$("view").contains(one)) return () => null;
  const label = one.getAttribute("aria-label") || one.textContent;
  return () => [...$("view").querySelectorAll(one.tagName)].find((other) => (one.name ? other.name === one.name && other.form?.textContent === one.form?.textContent
    : (other.getAttribute("aria-label") || other.textContent) === label));
}

async function render() {
  if (!session.me) return;
  here.abort();
  here = new AbortController();
  const { signal } = here;
  const name = decodeURIComponent(location.hash.slice(1)) in views ? decodeURIComponent(location.hash.slice(1)) : "Dashboard";
  for (const link of $("nav").children) { if (link.textContent === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current"); }
  try {
    const parts = (await views[name](signal)).filter(Boolean);
    await released();
    if (signal.aborted) return; // another view was asked for since
    const again = focused();
    $("view").replaceChildren(el("h2", {}, name), ...parts);
    again()?.focus();
    document.title = `${name} · hypercloud`;
  } catch (error) { if (!signal.aborted) complain(error.message); }
}

function show() {
  const { me } = session;
  $("login").hidden = Boolean(me); $("view").hidden = $("nav").hidden = $("who").hidden = !me;
  if (!me) {
    here.abort();
    if ($("dialog").open) $("dialog").close();
    session.csrf = "";
    sessionStorage.removeItem("csrf");
    document.title = "hypercloud";
    $("login").querySelector("input").focus();
    return;
  }
  $("name").textContent = `${me.username} (${me.role})`;
  $("nav").replaceChildren(...Object.keys(views).map((name) => el("a", { href: `#${name}` }, name)));
  render();
}

Object.assign(session, { changed: show, render });
$("login").addEventListener("submit", attempt(async (event) => {
  session.me = await ask("POST", "/web/login", Object.fromEntries(new FormData(event.target)));
  session.csrf = session.me.csrf;
  sessionStorage.setItem("csrf", session.csrf);
  event.target.reset();
  show();
}));
$("logout").addEventListener("click", attempt(async () => { await ask("POST", "/web/logout"); session.me = null; show(); }));
addEventListener("hashchange", () => { render(); $("main").focus(); });
if (session.csrf) ask("GET", "/web/me").then((found) => { session.me = found; show(); }, () => show()); else show();
