// SPDX-License-Identifier: BSD-3-Clause
// Filters a long table of releases, and the lists of files below it. Pages are complete without.
"use strict";

{
  const FIRST = 2; // columns before those of targets
  const form = document.querySelector("form.filter");
  const table = document.querySelector("table.releases");
  if (form && table) {
    const heads = [...table.tHead.rows[0].cells];
    const targets = heads.slice(FIRST).map((head) => head.textContent);
    const rows = [...table.tBodies[0].rows].map((row) => ({
      row,
      version: row.cells[0].querySelector(".version").textContent.toLowerCase(),
      cells: [...row.cells].slice(FIRST),
    }));
    const lists = [...document.querySelectorAll("details.files")].map((list) => ({
      list,
      version: list.querySelector(".version").textContent.toLowerCase(),
      files: [...list.querySelectorAll("li")].map((file) => ({ file, targets: file.dataset.for.split(" ") })),
    }));

    const apply = () => {
      const version = form.elements.version.value.trim().toLowerCase();
      const target = form.elements.target.value;
      const state = form.elements.state.value;
      const column = targets.indexOf(target);
      heads.slice(FIRST).forEach((head, index) => { head.hidden = column >= 0 && index !== column; });
      let shown = 0;
      for (const { row, version: own, cells } of rows) {
        const spans = cells.length === 1 && targets.length > 1;
        if (spans) cells[0].colSpan = column >= 0 ? 1 : targets.length;
        else cells.forEach((cell, index) => { cell.hidden = column >= 0 && index !== column; });
        const asked = column >= 0 && !spans ? [cells[column]] : cells;
        const fits = own.includes(version) && (!state || asked.some((cell) => cell.querySelector(`.state.${state}`)));
        row.hidden = !fits;
        shown += fits;
      }
      for (const { list, version: own, files } of lists) {
        let left = 0;
        for (const one of files) {
          one.file.hidden = target !== "" && !one.targets.includes(target);
          left += !one.file.hidden;
        }
        list.hidden = !left || !own.includes(version);
      }
      form.querySelector("output").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} releases`;
    };

    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply(); // a browser that goes back fills the form in again
  }
}
