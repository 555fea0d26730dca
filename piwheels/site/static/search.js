// SPDX-License-Identifier: BSD-3-Clause
// Looks names up while they are typed. What there is to fetch, piwheels/site/search_index.py says: a small file for each
// beginning of names, and _index.json with the beginnings that have one.
"use strict";

const form = document.getElementById("search");
const field = document.getElementById("q");
const list = document.getElementById("results");
const count = document.getElementById("count");
const { names, projects } = form.dataset;
const SHOWN = 50;

const files = new Map(); // beginning → promise of its entries
const known = new Map(); // beginning → its entries, once they are there
let beginnings; // promise of {all, best}: sets of beginnings

const fetchJson = async (name) => {
  const answer = await fetch(names + name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
};

const index = () => {
  beginnings ??= fetchJson("_index.json").then(({ all, best }) => {
    const read = (words) => new Set(words.split(" ").filter(Boolean).map((word) => (word === "_" ? "" : word)));
    return { all: read(all), best: read(best) };
  });
  beginnings.catch(() => { beginnings = undefined; });
  return beginnings;
};

// An entry is a name, or an array: name, downloads, summary.
const entry = (raw) =>
  typeof raw === "string"
    ? { name: raw, downloads: 0, wheels: false, summary: "" }
    : { name: raw[0], downloads: raw[1], wheels: true, summary: raw[2] ?? "" };

const load = (beginning) => {
  if (!files.has(beginning)) {
    const loaded = fetchJson(`${beginning || "_"}.json`).then((found) => {
      const entries = found.map(entry);
      known.set(beginning, entries);
      return entries;
    });
    loaded.catch(() => files.delete(beginning));
    files.set(beginning, loaded);
  }
  return files.get(beginning);
};

// The beginning whose file answers a query: it lists all of it, or it is the query itself.
const place = ({ all, best }, query) => {
  for (let length = 0; length <= query.length; length += 1) {
    const beginning = query.slice(0, length);
    if (all.has(beginning)) return beginning;
    if (!best.has(beginning)) return null; // nothing begins so
  }
  return query;
};

// PEP 503, and words apart as names have them.
const normalise = (text) => text.trim().toLowerCase().replace(/[-_.\s]+/g, "-").replace(/[^a-z0-9-]/g, "").replace(/^-+/, "");

const rank = (name, query) => {
  if (name === query) return 4;
  if (name.startsWith(query)) return 3;
  if (name.includes(`-${query}`) || name.startsWith(`py${query}`)) return 2;
  return name.includes(query) ? 1 : 0;
};

const matches = (entries, query) => {
  const words = query.split("-").filter(Boolean);
  const found = new Map();
  for (const one of entries) {
    let value = rank(one.name, query);
    if (!value && words.length > 1 && words.every((word) => one.name.includes(word))) value = 0.5;
    if (value) found.set(one.name, { ...one, value: value === 4 ? 4 : Math.min(value, 3) });
  }
  return [...found.values()].sort(
    (a, b) =>
      (b.value === 4) - (a.value === 4) ||
      b.wheels - a.wheels ||
      b.value - a.value ||
      b.downloads - a.downloads ||
      a.name.length - b.name.length ||
      (a.name < b.name ? -1 : 1),
  );
};

// With thousands apart as the other pages have them.
const numbers = { format: (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f") };

const item = (one) => {
  const li = document.createElement("li");
  const link = document.createElement("a");
  link.href = `${projects}${encodeURIComponent(one.name)}/`;
  link.className = "name";
  link.textContent = one.name;
  li.append(link);
  const said = document.createElement("span");
  said.className = one.wheels ? "state success" : "state";
  said.textContent = one.wheels ? "wheels" : "no wheels";
  li.append(" ", said);
  if (one.downloads) {
    const fetched = document.createElement("span");
    fetched.className = "took";
    fetched.textContent = `${one.downloads > 99 ? "about " : ""}${numbers.format(one.downloads)} downloads in 30 days`;
    li.append(" ", fetched);
  }
  if (one.summary) {
    const summary = document.createElement("span");
    summary.className = "summary";
    summary.dir = "auto";
    summary.textContent = one.summary;
    li.append(summary);
  }
  return li;
};

const show = (found, words) => {
  list.replaceChildren(...found.slice(0, SHOWN).map(item));
  list.setAttribute("aria-busy", "false");
  count.textContent = words;
};

let asked = 0;
const look = async () => {
  const mine = (asked += 1);
  const query = normalise(field.value);
  const url = new URL(location.href);
  if (query) url.searchParams.set("q", field.value.trim());
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
  if (query) {
    // What is here already is better than nothing while the rest is on its way.
    const here = matches([...known.values()].flat(), query);
    if (here.length) show(here, "…");
  }
  list.setAttribute("aria-busy", "true");
  let complete = true;
  let found = [];
  try {
    const beginnings = await index();
    // What begins so; for words out of order, what begins with the first; and where nothing does, what is fetched
    // most of all, as it may be inside one of those names.
    const places = [place(beginnings, query), place(beginnings, query.split("-")[0])].map((one) => one ?? "");
    complete = places.every((one) => beginnings.all.has(one));
    await Promise.all([...new Set(places)].map(load));
    found = query ? matches([...known.values()].flat(), query) : known.get("").filter((one) => one.wheels);
  } catch (error) {
    if (mine === asked) show([], navigator.onLine ? "The names could not be fetched. Try again in a moment." : "You are offline.");
    return;
  }
  if (mine !== asked) return; // more was typed meanwhile
  if (!query) {
    found.sort((a, b) => b.downloads - a.downloads || (a.name < b.name ? -1 : 1));
    show(found, found.length ? "Most downloaded in 30 days. Type to look for others." : "Type a name, or how it begins.");
  } else if (!found.length) {
    show([], `Nothing here is called “${field.value.trim()}”. What PyPI serves well enough itself may have no page here.`);
  } else {
    const many = complete && found.length <= SHOWN;
    show(found, many ? `${found.length} ${found.length === 1 ? "package" : "packages"}` : `The first ${Math.min(found.length, SHOWN)}; type more to narrow it down.`);
  }
};

field.value = new URL(location.href).searchParams.get("q") ?? "";
field.addEventListener("input", look);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const first = list.querySelector("a");
  if (first && first.textContent === normalise(field.value)) location.href = first.href;
  else look();
});
// Down from the field into the list, and up and down in it.
document.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const stops = [field, ...list.querySelectorAll("a")];
  const here = stops.indexOf(document.activeElement);
  const next = stops[here + (event.key === "ArrowDown" ? 1 : -1)];
  if (here < 0 || !next) return;
  event.preventDefault();
  next.focus();
});
look();
