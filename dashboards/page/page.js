// Draws all figures of the page in the light or dark theme, again after a change of the theme.
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = JSON.parse(document.getElementById("themes").textContent);
  function draw() {
    document.querySelectorAll(".plot").forEach(function (place) {
      const spec = JSON.parse(document.getElementById(place.id + "-data").textContent);
      spec.layout.height = place.clientHeight;
      spec.layout.template = dark.matches ? themes.dark : themes.light;
      Plotly.react(place, spec.data, spec.layout, { responsive: true, displaylogo: false });
    });
  }
  dark.addEventListener("change", draw);
  draw();
})();
