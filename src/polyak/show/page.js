"use strict";
// A button of the legend shows and hides its group in every chart; the style sheet has a rule for each.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    document.body.classList.toggle(button.dataset.hides, !shown);
  });
}
