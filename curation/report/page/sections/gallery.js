"use strict";
// Opens a sample's dialog from its picture; Esc closes it, arrow keys go to the pictures beside it.
(() => {
  for (const copy of document.querySelectorAll(".look img[data-same]")) fill(copy);

  function fill(copy) {
    const original = document.getElementById(copy.dataset.same);
    if (original && !copy.src) copy.src = original.src;
  }

  let opener = null;

  function open(button) {
    const dialog = document.getElementById(button.dataset.opens);
    if (!dialog) return;
    opener = button;
    dialog.querySelectorAll("img[data-same]").forEach(fill);
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  function beside(step) {
    const row = [...opener.parentElement.querySelectorAll(".look")];
    return row[row.indexOf(opener) + step];
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-opens]");
    if (button) open(button);
    const dialog = event.target.closest("dialog.sample");
    // A click on the backdrop has the dialog itself as its target.
    if (dialog && (event.target === dialog || event.target.closest("[data-closes]"))) dialog.close();
  });

  document.addEventListener("keydown", (event) => {
    const dialog = event.target.closest?.("dialog.sample[open]");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = dialog && opener && step && beside(step);
    if (!next) return;
    event.preventDefault();
    dialog.close();
    next.focus();
    open(next);
  });
})();
