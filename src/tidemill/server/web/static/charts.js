"use strict";
// Draws the charts that the page describes in data-chart, in the colours of the style sheet, and again when those change.
// One that stands on a page of its own (data-chart-from) comes from there when it comes into view, and goes when it is far from it.
(() => {
  const LEGEND_MAX = 12; // lines; above, each says its name when pointed at
  const NEAR = "400px 0px", SETTLED_MS = 120;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function traces(chart) {
    return chart.series.map((series, place) => {
      const ink = series.dashed ? colour("--soft") : colour(`--s${place % 6}`);
      const many = chart.series.length > LEGEND_MAX;
      const x = series.x.length ? series.x : chart.x;
      const shared = { name: series.name, x, y: series.values, hovertemplate: `%{y:.4~g} ${chart.unit}` };
      if (chart.kind === "stack") {
        return { ...shared, type: "bar", marker: { color: ink } };
      }
      const few = series.values.filter((value) => value !== null).length < 40;
      return {
        ...shared, type: "scatter", mode: few && !series.dashed ? "lines+markers" : "lines", connectgaps: false,
        opacity: many ? 0.55 : 1, line: { color: ink, width: series.dashed || many ? 1.2 : 1.8, dash: series.dashed ? "dash" : "solid" }, marker: { size: 4, color: ink },
      };
    });
  }

  function layout(chart) {
    const many = chart.series.length > LEGEND_MAX;
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, fixedrange: true,
    };
    return {
      barmode: "stack", bargap: 0.08, hovermode: many ? "closest" : "x unified", dragmode: false,
      showlegend: chart.series.length > 1 && !many,
      margin: { l: 8, r: 8, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 11.5, color: colour("--soft") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: colour("--ink") } },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      xaxis: { ...axis, showgrid: false, tickangle: 0, nticks: 7 },
      yaxis: { ...axis, rangemode: chart.from_zero ? "tozero" : "normal", nticks: 6, title: { text: chart.unit, standoff: 6 } },
      shapes: chart.marks.map((mark) => ({
        type: "line", x0: mark.at, x1: mark.at, yref: "paper", y0: 0, y1: 1, line: { color: colour("--soft"), width: 1, dash: "dot" },
      })),
      annotations: chart.marks.map((mark) => ({
        x: mark.at, yref: "paper", y: 1, yanchor: "bottom", text: mark.text, showarrow: false, font: { size: 10, color: colour("--soft") },
      })),
    };
  }

  const drawn = new Map(); // element -> chart

  function draw(place, chart) {
    drawn.set(place, chart);
    Plotly.react(place, traces(chart), layout(chart), { displayModeBar: false, responsive: true });
  }

  async function bring(place) {
    const answer = await fetch(place.dataset.chartFrom);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.querySelector("[data-chart]");
    if (found) return JSON.parse(found.dataset.chart);
    throw new Error(page.querySelector("main")?.textContent.trim() || `the server answered ${answer.status}`);
  }

  const brought = new WeakMap(); // element -> promise of its chart
  const waiting = new WeakMap(); // element -> timer
  function come(place) {
    waiting.set(place, setTimeout(async () => {
      waiting.delete(place);
      place.dataset.near = "";
      if (!brought.has(place)) brought.set(place, bring(place));
      try {
        const chart = await brought.get(place);
        if ("near" in place.dataset) draw(place, chart);
      } catch (error) {
        brought.delete(place);
        place.textContent = `This chart could not be read: ${error.message}`;
      }
    }, SETTLED_MS));
  }
  function go(place) {
    clearTimeout(waiting.get(place));
    delete place.dataset.near;
    if (drawn.delete(place)) Plotly.purge(place);
  }
  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries) (entry.isIntersecting ? come : go)(entry.target);
  }, { rootMargin: NEAR });

  for (const place of document.querySelectorAll("[data-chart]")) draw(place, JSON.parse(place.dataset.chart));
  for (const place of document.querySelectorAll("[data-chart-from]")) sight.observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((chart, place) => draw(place, chart)));
})();
