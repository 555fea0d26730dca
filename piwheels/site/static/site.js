// SPDX-License-Identifier: BSD-3-Clause
// What every page may have: copy buttons, the choice of colours, how long ago something was. Pages are complete without.
"use strict";

// A button beside each command that copies it.
for (const block of document.querySelectorAll("pre.command")) {
  if (!navigator.clipboard) break; // only in secure contexts
  const holder = document.createElement("div");
  holder.className = "copyable";
  block.replaceWith(holder);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  const said = document.createElement("span");
  said.className = "hidden";
  said.setAttribute("role", "status");
  let timer = 0;
  button.addEventListener("click", async () => {
    let word = "Copied";
    try {
      await navigator.clipboard.writeText(block.textContent.trim());
      button.classList.add("done");
    } catch {
      getSelection().selectAllChildren(block);
      word = "Press Ctrl+C";
    }
    button.textContent = word;
    said.textContent = word;
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.textContent = "Copy";
      button.classList.remove("done");
      said.textContent = "";
    }, 2000);
  });
  holder.append(block, button, said);
}

// Light, dark, or as the system has it: in turn, and remembered (theme.js).
const theme = document.getElementById("theme");
if (theme) {
  const words = { "": "as the system has them", light: "light", dark: "dark" };
  const order = matchMedia("(prefers-color-scheme: dark)").matches ? ["", "light", "dark"] : ["", "dark", "light"];
  const root = document.documentElement;
  const show = () => {
    const label = `Colours: ${words[root.dataset.theme ?? ""]}`;
    theme.querySelector("span").textContent = label;
    theme.title = label;
  };
  theme.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    try {
      if (next) localStorage.setItem("theme", next);
      else localStorage.removeItem("theme");
    } catch {
      // it holds for this page then
    }
    show();
  });
  show();
  theme.hidden = false;
}

// <time class="ago">: how long ago, kept up to date; the page says when.
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "always" });
const times = document.querySelectorAll("time.ago");
const tell = () => {
  for (const time of times) {
    const seconds = Math.max((Date.now() - Date.parse(time.dateTime)) / 1000, 0);
    const [unit, length] = units.find(([, size]) => seconds >= size) ?? units[3];
    time.title ||= time.textContent;
    time.textContent = words.format(-Math.floor(seconds / length), unit);
  }
};
if (times.length) {
  tell();
  setInterval(tell, 15000);
}
