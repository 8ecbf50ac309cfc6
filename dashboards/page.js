// Draws every figure of the page in the light or dark theme, and again when the theme changes.
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function theme() {
    const [text, grid, card] = dark.matches ? ["#d5dae2", "#313a46", "#1a2029"] : ["#333c49", "#e4e7ec", "#ffffff"];
    const axis = { gridcolor: grid, linecolor: text, tickcolor: text, showline: true };
    return { layout: {
      font: { color: text, size: 12.5, family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: card, bordercolor: text, font: { color: text }, align: "left" },
      xaxis: axis, yaxis: axis,
    } };
  }
  function draw() {
    document.querySelectorAll(".plot").forEach(function (place) {
      const spec = JSON.parse(document.getElementById(place.id + "-data").textContent);
      spec.layout.template = theme();
      Plotly.react(place, spec.data, spec.layout, { responsive: true, displaylogo: false });
    });
  }
  dark.addEventListener("change", draw);
  draw();
})();
