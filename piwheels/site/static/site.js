// SPDX-License-Identifier: BSD-3-Clause
// A button beside each command that copies it. Pages are complete without.
"use strict";

for (const block of document.querySelectorAll("pre.command")) {
  if (!navigator.clipboard) break; // only in secure contexts
  const holder = document.createElement("div");
  holder.className = "copyable";
  block.replaceWith(holder);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.textContent.trim());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  holder.append(block, button);
}
