"use strict";
// Brings the node that the picture is about into view where the picture is wider than the page.
(() => {
  const focus = document.querySelector(".lineage .focus");
  const frame = focus && focus.closest(".lineage");
  if (frame) {
    const place = focus.getBoundingClientRect();
    const around = frame.getBoundingClientRect();
    frame.scrollLeft += place.left + place.width / 2 - around.left - around.width * 0.62;
  }
})();
