"use strict";
// Draws the charts that the page describes in data-chart, in the colours of the style sheet, and again when those change.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function traces(chart) {
    return chart.series.map((series, place) => {
      const ink = series.dashed ? colour("--soft") : colour(`--s${place % 6}`);
      const shared = { name: series.name, x: chart.x, y: series.values, hovertemplate: `%{y:.4~g} ${chart.unit}` };
      if (chart.kind === "stack") {
        return { ...shared, type: "bar", marker: { color: ink } };
      }
      const few = series.values.filter((value) => value !== null).length < 40;
      return {
        ...shared, type: "scatter", mode: few && !series.dashed ? "lines+markers" : "lines", connectgaps: false,
        line: { color: ink, width: series.dashed ? 1.2 : 1.8, dash: series.dashed ? "dash" : "solid" }, marker: { size: 4, color: ink },
      };
    });
  }

  function layout(chart) {
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, fixedrange: true,
    };
    return {
      barmode: "stack", bargap: 0.08, hovermode: "x unified", dragmode: false, showlegend: chart.series.length > 1,
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

  function draw() {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const chart = JSON.parse(place.dataset.chart);
      Plotly.react(place, traces(chart), layout(chart), { displayModeBar: false, responsive: true });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
