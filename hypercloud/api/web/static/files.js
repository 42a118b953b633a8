// Files of containers, up and down; and archives for builds.
import { dialog, attempt, bytes, el, form, load, send, tell } from "./base.js";

const BLOCK = 512;

function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A line that tells how far something is.
export function progress(text) {
  const bar = el("progress", { max: 1, "aria-label": text });
  const words = el("span", {}, text);
  const node = el("p", { class: "progress" }, words, " ", bar);
  return { node, at(part, said = text) { words.textContent = said; if (part == null) bar.removeAttribute("value"); else bar.value = part; } };
}

// The dialog for the files of a container.
export function files(one) {
  const path = `/web/containers/${one.id}/files`;
  const said = el("div", { role: "status" });
  const left = new AbortController();
  const down = form([["path", "Path in the container", { required: true, pattern: "/.*", value: "/etc/hostname" }]], "Download", async ({ path: wanted }) => {
    said.replaceChildren("Downloading…");
    try {
      const { type, blob } = await load(`${path}?path=${encodeURIComponent(wanted)}`);
      const name = wanted.replace(/\/+$/, "").split("/").at(-1) || "root";
      save(blob, type === "application/x-tar" ? `${name}.tar` : name);
      said.replaceChildren(`${wanted}: ${bytes(blob.size)}${type === "application/x-tar" ? " as a tar archive" : ""}.`);
    } catch (error) { said.replaceChildren(); throw error; }
  }, { stays: true });
  const up = form([["files", "Files", { type: "file", multiple: true, required: true }], ["directory", "Directory in the container", { required: true, pattern: "/.*", value: "/tmp" }]], "Upload", async (data, made) => {
    const chosen = [...made.elements.files.files];
    for (const file of chosen) {
      const bar = progress(`Uploading ${file.name}`);
      said.replaceChildren(bar.node);
      try {
        const query = new URLSearchParams({ path: data.directory, name: file.name });
        await send("PUT", `${path}?${query}`, file, { sent: (part) => bar.at(part), signal: left.signal });
      } catch (error) { said.replaceChildren(); throw error; }
    }
    said.replaceChildren(`${chosen.map((file) => file.name).join(", ")}: in ${data.directory}.`);
    tell("Uploaded.");
    made.elements.files.value = "";
  }, { stays: true });
  dialog(`Files of ${one.name}`, el("div", { class: "two" }, down, up, said), () => left.abort());
}

// The head of a file in a tar archive (POSIX ustar; a long name stands in a pax header before it).
function head(name, size, type) {
  const block = new Uint8Array(BLOCK);
  const put = (text, at, length) => block.set(new TextEncoder().encode(text).slice(0, length), at);
  put(name, 0, 100); put("0000644\0", 100, 8); put("0000000\0", 108, 8); put("0000000\0", 116, 8);
  put(`${size.toString(8).padStart(11, "0")}\0`, 124, 12); put("00000000000\0", 136, 12); put("        ", 148, 8); put(type, 156, 1); put("ustar\0" + "00", 257, 8);
  put(`${block.reduce((sum, one) => sum + one, 0).toString(8).padStart(6, "0")}\0 `, 148, 8);
  return block;
}

// One record of a pax header: its length, which counts itself, a key and a value.
function record(key, value) {
  const rest = new TextEncoder().encode(` ${key}=${value}\n`).length;
  let length = rest;
  while (`${length}`.length + rest !== length) length = `${length}`.length + rest;
  return `${length} ${key}=${value}\n`;
}

// An archive of files, given as [name, Blob]; the files are not read here.
export function archive(entries) {
  const parts = [];
  const add = (name, blob, type) => parts.push(head(name, blob.size, type), blob, new Uint8Array((BLOCK - (blob.size % BLOCK)) % BLOCK));
  for (const [name, blob] of entries) {
    if (new TextEncoder().encode(name).length > 100) add("pax", new Blob([record("path", name)]), "x");
    add(name, blob, "0");
  }
  return new Blob([...parts, new Uint8Array(2 * BLOCK)]);
}
