// SPDX-License-Identifier: BSD-3-Clause
// The colours that were chosen on an earlier page, before anything is drawn; so this one file is loaded without "defer".
"use strict";

try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is forbidden here: the system's colours it is.
}
