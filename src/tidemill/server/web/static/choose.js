"use strict";
// Chooses all runs of the list at once, and says how many are chosen.
(() => {
  const all = document.querySelector("[data-all]");
  const button = document.querySelector("[data-chosen]");
  const boxes = [...document.querySelectorAll('input[name="run"]')];
  if (!all || !button) return;
  function tell() {
    const chosen = boxes.filter((box) => box.checked).length;
    button.disabled = chosen < 2;
    button.textContent = chosen ? `${button.dataset.chosen} ${chosen}` : button.dataset.chosen;
    all.checked = chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    tell();
  });
  for (const box of boxes) box.addEventListener("change", tell);
  tell();
})();
