// Browser-side code: theme, address, saved figures, and synchronization of grid and address.
(function () {
  const LOST_MS = 20000;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function stored() { try { return localStorage.getItem("sweeper-theme"); } catch (e) { return null; } }
  function theme() { return stored() || (dark.matches ? "dark" : "light"); }
  function wear(name) {
    if (stored()) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  }
  dark.addEventListener("change", function () {
    if (!stored()) window.dash_clientside.set_props("theme", { data: theme() });
  });

  // the browser's address holds the selection; the store `search` only passes it to the callbacks
  function query(search, changes) {
    const fields = new URLSearchParams(search);
    for (const [field, value] of Object.entries(changes)) {
      if (value) fields.set(field, value); else fields.delete(field);
    }
    const text = fields.toString();
    return text ? "?" + text : "";
  }
  function go(search) {
    history.pushState(null, "", search || location.pathname);
    return location.search;
  }
  function changed(changes) {
    const next = query(location.search, changes);
    return next === query(location.search, {}) ? window.dash_clientside.no_update : go(next);
  }
  const tell = () => window.dash_clientside.set_props("search", { data: location.search });
  window.addEventListener("popstate", tell);
  document.addEventListener("click", function (event) {
    const link = event.target.closest("a.go");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(new URL(link.href).search);
    tell();
  });

  // When to ask the server for news: on a service's events, or every second without events. A hidden tab does not ask;
  // it asks once when it becomes visible.
  const TICK_MS = 1000, STREAMED_MS = 30000, BEAT_MS = 500, AGAIN_MS = 15000;
  const KINDS = ["trial", "target", "verdict", "best", "state", "progress"];
  let stream = "", source = null, streaming = false, busy = false, beaten = 0, due = null, pace = {};
  function beat() {
    if (document.hidden || due) return;
    due = setTimeout(function () {
      due = null;
      beaten = performance.now();
      if (!document.hidden) window.dash_clientside.set_props("beat", { data: beaten });
    }, Math.max(0, beaten + BEAT_MS - performance.now()));
  }
  function keepPace() {
    const next = { disabled: document.hidden, interval: streaming && !busy ? STREAMED_MS : TICK_MS };
    if (next.disabled === pace.disabled && next.interval === pace.interval) return;
    pace = next;
    window.dash_clientside.set_props("tick", next);
  }
  function happened(event) {
    const shown = new URLSearchParams(location.search).get("run");
    try {
      if (!shown || shown.split(",").includes(JSON.parse(event.data).sweep)) beat();
    } catch (e) { beat(); }
  }
  function listen() {
    if (!stream || source || document.hidden) return;
    const mine = source = new EventSource(stream);
    mine.onopen = function () { streaming = true; keepPace(); beat(); };  // catch up
    mine.onerror = function () {
      streaming = false;
      keepPace();
      if (mine.readyState !== EventSource.CLOSED || source !== mine) return;  // else the browser reconnects
      source = null;
      setTimeout(listen, AGAIN_MS);
      // a user who is no longer signed in goes to the sign-in page
      fetch(location.pathname, { redirect: "manual" }).then(function (answer) {
        if (answer.type === "opaqueredirect") location.reload();
      }, function () { /* server unreachable */ });
    };
    for (const kind of KINDS) mine.addEventListener(kind, happened);
  }
  // browsers allow few connections per server, and a stream takes one
  function hush() {
    if (source) source.close();
    source = null;
    streaming = false;
  }
  document.addEventListener("visibilitychange", function () {
    if (document.hidden) hush(); else { listen(); beat(); }
    keepPace();
  });
  let wanted = {}, flying = 0, waiting = false;
  function question() {
    const mine = flying = performance.now();
    waiting = false;
    // a lost answer must not block further questions
    setTimeout(function () { if (flying === mine) window.dash_clientside.sweeper.answered(); }, LOST_MS);
    return { ...wanted, search: location.search };
  }
  const text = (value) => (Array.isArray(value) ? value.join(",") : String(value ?? ""));
  const plain = (model) => (model && Object.keys(model).length ? JSON.stringify(model) : "");
  const order = (model) => (model && model.length ? JSON.stringify(model.map((s) => ({ colId: s.colId, sort: s.sort }))) : "");
  function grid() {
    try { return window.dash_ag_grid && window.dash_ag_grid.getApi("grid"); } catch (e) { return null; }
  }

  // Plotly drops a reader's zoom if the new figure's range differs from the old one, as after each new trial. So set
  // the range that it compares with to the new one.
  function keepZoom(plotly) {
    const react = plotly.react;
    plotly.react = function (place, data, layout, ...rest) {
      const next = layout || (data && data.layout), before = place._fullLayout && place._fullLayout._preGUI;
      if (before && next && place.layout && place.layout.uirevision === next.uirevision) {
        for (const key of Object.keys(before)) {
          const [, axis, end] = key.match(/^([xy]axis\d*)\.range(?:\[([01])\])?$/) || [];
          const range = axis && next[axis] && next[axis].range;
          if (range) before[key] = end === undefined ? range.slice() : range[Number(end)];
        }
      }
      return react.call(this, place, data, layout, ...rest);
    };
    return plotly;
  }
  let held;
  Object.defineProperty(window, "Plotly", { configurable: true, get: () => held, set: (p) => { held = keepZoom(p); } });

  // four digits, small numbers as 1.2e-5; the grid formats other values
  function shortNumber(v) {
    if (typeof v !== "number") return v;
    const digits = Number(v.toPrecision(4));
    return v && Math.abs(v) < 1e-3 ? digits.toExponential() : String(digits);
  }
  window.dashAgGridFunctions = Object.assign({}, window.dashAgGridFunctions, { shortNumber });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { sweeper: {
    // the theme at the start and after each click; stored only if it differs from the system's
    theme: function (clicks) {
      if (clicks) {
        const next = theme() === "dark" ? "light" : "dark";
        try {
          if ((next === "dark") === dark.matches) localStorage.removeItem("sweeper-theme");
          else localStorage.setItem("sweeper-theme", next);
        } catch (e) { document.documentElement.dataset.theme = next; return next; }
      }
      wear(theme());
      return theme();
    },
    start: function (tabs, events) {
      stream = events || "";
      listen();
      keepPace();
      return location.search;
    },
    // A choice goes to the address, unless it is the default. New controls trigger this, too: they must not change
    // an address that the reader opened meanwhile.
    choose: function (values, shown) {
      const context = window.dash_clientside.callback_context;
      const changes = {}, drawn = JSON.parse((shown || {}).values || "{}");
      for (const hit of context.triggered) {
        const id = JSON.parse(hit.prop_id.slice(0, hit.prop_id.lastIndexOf(".")));
        if (text(hit.value) === text(drawn[id.field])) continue;
        const value = text(hit.value);
        changes[id.field] = value === id.default ? "" : value;
        if (id.field === "state" || id.field === "owner") changes.before = "";
      }
      return changed(changes);
    },
    // one question at a time, since an answer depends on what the page shows
    ask: function (search, theme, version) {
      wanted = { theme: theme || "light", version: version };
      if (flying) { waiting = true; return window.dash_clientside.no_update; }
      return question();
    },
    answered: function (shown) {
      flying = 0;
      busy = Boolean((shown || {}).busy);
      keepPace();
      if (waiting) window.dash_clientside.set_props("asked", { data: question() });
    },
    // write filter, order and open trial of the grid to the address
    listed: function (request) {
      if (!request) return window.dash_clientside.no_update;
      return changed({ filter: plain(request.filterModel), sort: order(request.sortModel) });
    },
    opened: function (cell) {
      if (!cell || !cell.rowId) return window.dash_clientside.no_update;
      return changed({ trial: cell.rowId });
    },
    // apply the address to the grid, for example after the browser's back button
    address: function (search) {
      const api = grid(), fields = new URLSearchParams(search || "");
      if (api && fields.get("tab") === "trials") {
        if (plain(api.getFilterModel()) !== (fields.get("filter") || "")) {
          try { api.setFilterModel(JSON.parse(fields.get("filter") || "{}")); } catch (e) { /* the server reports it */ }
        }
        const now = api.getColumnState().filter((c) => c.sort).sort((a, b) => a.sortIndex - b.sortIndex);
        if (order(now) !== (fields.get("sort") || "")) {
          try {
            const state = JSON.parse(fields.get("sort") || "[]").map((s, i) => ({ ...s, sortIndex: i }));
            api.applyColumnState({ state: state, defaultState: { sort: null } });
          } catch (e) { /* the server reports it */ }
        }
      }
      return "trials.csv" + (search || "");
    },
    // after new trials, the grid reloads the visible rows
    refresh: function (version) {
      const api = grid();
      if (api) api.refreshInfiniteCache();
      return window.dash_clientside.no_update;
    },
  } });

  document.addEventListener("click", function (event) {
    const button = event.target.closest("button.save");
    if (!button || !button.dataset.format) return;
    const plot = button.closest(".card").querySelector(".js-plotly-plot");
    if (!plot) return;
    const title = button.closest(".card").querySelector("h3").textContent.trim().replace(/[^\w]+/g, "-");
    window.Plotly.downloadImage(plot, { format: button.dataset.format, filename: "sweeper-" + title, scale: 2,
      width: plot.clientWidth, height: plot.clientHeight });
  });
})();
