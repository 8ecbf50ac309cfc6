// Draws the figures of the page in the light or dark theme, chooses and copies settings, sorts and filters tables.
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = JSON.parse((document.getElementById("themes") || { textContent: "{}" }).textContent);
  const plots = Array.from(document.querySelectorAll(".plot"));
  function draw(place) {
    if (!place.clientWidth) return;  // folded
    const spec = JSON.parse(document.getElementById(place.id + "-data").textContent);
    spec.layout.height = place.clientHeight;
    spec.layout.template = dark.matches ? themes.dark : themes.light;
    Plotly.react(place, spec.data, spec.layout, { responsive: true, displaylogo: false });
  }
  // one figure after the other, so that the first ones appear at once
  function drawAll(left) {
    if (!left.length) return;
    draw(left[0]);
    setTimeout(drawAll, 0, left.slice(1));
  }
  dark.addEventListener("change", function () { drawAll(plots); });
  drawAll(plots);
  document.querySelectorAll("details").forEach(function (fold) {
    fold.addEventListener("toggle", function () { if (fold.open) fold.querySelectorAll(".plot").forEach(draw); });
  });

  const use = document.getElementById("use"), size = use && use.querySelector("select");
  if (size) {
    const choices = Array.from(use.querySelectorAll(".choice"));
    const show = function () { choices.forEach(function (c, i) { c.hidden = i !== Number(size.value); }); };
    size.addEventListener("change", show);
    show();  // a reloaded page keeps the reader's choice
    use.querySelector(".copy").addEventListener("click", function (event) {
      const code = choices[Number(size.value)].querySelector("code"), button = event.target;
      const say = function (text) {
        button.textContent = text;
        setTimeout(function () { button.textContent = "copy"; }, 1500);
      };
      const select = function () {
        const range = document.createRange();
        range.selectNodeContents(code);
        const selection = window.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        say(document.execCommand("copy") ? "copied" : "press Ctrl+C");
      };
      if (!navigator.clipboard) { select(); return; }
      navigator.clipboard.writeText(code.textContent).then(function () { say("copied"); }, select);
    });
  }
})();
