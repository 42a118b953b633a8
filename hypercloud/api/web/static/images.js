// The images of all engines: pulled with the progress of each layer, built from a context, removed.
import { ask, button, bytes, el, form, send, session, table, tell } from "./base.js";
import { archive, progress } from "./files.js";

const place = (engines, error = "There is no engine that answers.") => { if (!engines.length) throw new Error(error); };

// Draws messages of a pull: a bar for each layer.
function layers(box) {
  const bars = new Map();
  return ({ id, status = "", progressDetail: { current, total } = {} }) => {
    if (!/^[0-9a-f]{12}$/.test(id)) { box.append(el("p", {}, status)); return; }
    if (!bars.has(id)) { bars.set(id, progress(id)); box.append(bars.get(id).node); }
    const done = /complete|exists|^Pull/.test(status) && !/^Pulling fs/.test(status);
    bars.get(id).at(total ? current / total : done ? 1 : null, `${id}: ${status}${total ? ` ${bytes(current)} of ${bytes(total)}` : ""}`);
  };
}

async function pull(data, box) {
  box.replaceChildren(el("h3", {}, `Pulling ${data.name} on ${data.engine}`));
  await send("POST", "/web/images/pull", JSON.stringify({ name: data.name, engine: data.engine }), { line: layers(box) });
  tell(`Pulled ${data.name} on ${data.engine}.`);
}

// The files of a directory by their paths in it, without those that its .dockerignore names: Docker leaves that to its clients.
async function wanted(chosen, dockerfile) {
  const named = chosen.map((one) => [one.webkitRelativePath.split("/").slice(1).join("/") || one.name, one]);
  const ignore = named.find(([name]) => name === ".dockerignore");
  if (!ignore) return named;
  const found = await ask("POST", "/web/images/context", { dockerfile, ignore: await ignore[1].text(), names: named.map(([name]) => name) });
  const kept = new Set(found.names);
  return named.filter(([name]) => kept.has(name));
}

// The context that was chosen: an archive, a directory, or nothing but a Dockerfile.
async function context(made) {
  const [file] = made.elements.archive.files;
  const chosen = [...made.elements.directory.files];
  const text = made.elements.text.value;
  if ([file, chosen.length, text.trim()].filter(Boolean).length > 1) throw new Error("Give one of the three: a directory, an archive, or only a Dockerfile.");
  if (file) return file;
  if (chosen.length) return archive(await wanted(chosen, made.elements.dockerfile.value));
  if (!text.trim()) throw new Error("Choose a directory or an archive, or write a Dockerfile.");
  return archive([[made.elements.dockerfile.value, new Blob([text])]]);
}

async function build(data, made, box) {
  const bar = progress("Sending the context");
  const out = el("pre", { tabindex: "0", role: "log", "aria-label": "Output of the build" });
  const sent = await context(made);
  box.replaceChildren(el("h3", {}, `Building ${data.tag} on ${data.engine}`), bar.node, out);
  const query = new URLSearchParams({ engine: data.engine, tag: data.tag, dockerfile: data.dockerfile });
  try {
    await send("POST", `/web/images/build?${query}`, sent, {
      sent: (part) => bar.at(part < 1 ? part : null, part < 1 ? `Sending the context, ${bytes(sent.size)}` : "Building"),
      line: (one) => { out.append(one.stream ?? (one.status ? `${one.status}\n` : "")); out.scrollTop = out.scrollHeight; },
    });
  } catch (error) { out.append(`${error.message}\n`); bar.at(0, "The build failed"); throw error; }
  bar.at(1, "Built");
  tell(`Built ${data.tag} on ${data.engine}.`);
}

export async function images() {
  const list = el("div");
  const refresh = async () => {
    const found = await ask("GET", "/web/images");
    const rows = found.flatMap((one) => one.tags.map((tag) => [tag, one.engine, bytes(one.size || 0), session.me.role === "admin"
      ? [button("Remove", async () => { await ask("POST", "/web/images/remove", { engine: one.engine, name: tag }); await refresh(); },
        { danger: true, stays: true, label: `Remove ${tag} from ${one.engine}`, sure: `Remove ${tag} from ${one.engine}?` })] : ""]));
    list.replaceChildren(table("Images", ["Name", "Engine", "Size", "Actions"], rows));
  };
  await refresh();
  if (session.me.role !== "admin") return [list];
  const engines = (await ask("GET", "/api/engines")).filter((one) => one.health.status === "up").map((one) => one.engine.id);
  const box = el("div", { class: "doing" });
  const where = ["engine", "Engine", { options: engines, required: true }];
  const then = (work) => async (...given) => { place(engines); await work(...given); await refresh(); };
  return [list, box, el("div", { class: "two" },
    form([["name", "Image", { required: true, placeholder: "busybox:latest" }], where], "Pull an image", then((data) => pull(data, box)), { stays: true }),
    form([["tag", "Name of the image", { required: true, placeholder: "shop/front:1" }], where, ["directory", "Context: a directory", { type: "file", webkitdirectory: true, multiple: true }],
      ["archive", "or a tar archive", { type: "file", accept: ".tar,.gz,.tgz,.xz,.bz2,.zst" }], ["text", "or only a Dockerfile", { area: true }],
      ["dockerfile", "Path of the Dockerfile in the context", { required: true, value: "Dockerfile" }]], "Build an image", then((data, made) => build(data, made, box)), { stays: true }))];
}
