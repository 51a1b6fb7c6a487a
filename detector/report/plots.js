"use strict";
/** The plots of a page: each `.plot` and `#days`, from the JSON in `#drawn`. `Plots.show()` draws them anew. */
const Plots = (() => {
  let zone, days, alerts;
  let elements = [];
  const HEIGHT = 200;
  const PRINTED = { score: 680, metric: 330, height: 150 };
  const plots = new Map(); // element -> uPlot

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const stroke = (name) => () => color(name);

  // -- what all plots share ---------------------------------------------------------------------------------------

  /** Numbers with one unit and enough digits to distinguish neighbouring ticks. */
  function ticks(_, splits, axis, space, step) {
    const most = Math.max(...splits.map(Math.abs));
    const [size, unit] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]].find(([least]) => most >= least) ?? [1, ""];
    const divisor = unit === "k" ? 1e3 : size;
    const is_told = (digits) => Math.abs(Number((step / divisor).toFixed(digits)) * divisor / step - 1) < 1e-6;
    const digits = [...Array(12).keys()].find(is_told) ?? 12;
    return splits.map((value) => (value === 0 ? "0" : (value / divisor).toFixed(digits) + unit));
  }

  /** What the legend says of a value: nothing unless it is pointed at, – where it is missing. */
  const text = (_, value, series, index) =>
    index == null ? "" : value == null ? "–" : Number(value.toPrecision(5)).toLocaleString("en");

  /** Wide enough for its longest label. */
  function widthOf(plot, labels) {
    const longest = Math.max(1, ...(labels ?? []).map((label) => String(label).length));
    return Math.max(42, 18 + 7 * longest); // and half a date under the first tick
  }

  const axis = (more) => ({
    stroke: stroke("muted"),
    grid: { stroke: stroke("line"), width: 1 },
    ticks: { stroke: stroke("line"), width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
    ...more,
  });

  const TIME = { year: "{YYYY}", day: "{YYYY}-{MM}-{DD}", minute: "{HH}:{mm}", second: "{HH}:{mm}:{ss}" };
  const hours = [null, null, null, null, null, null, null, 0];
  const timeAxis = () =>
    axis({
      space: 70,
      values: [
        [86400e3, TIME.day, ...hours],
        [60e3, TIME.minute, `\n${TIME.day}`, null, `\n${TIME.day}`, null, null, null, 1],
        [1e3, TIME.second, `\n${TIME.day}`, null, `\n${TIME.day}`, null, null, null, 1],
      ],
    });

  /** Points that have no neighbour make no line; they get a dot. */
  function lonely(plot, series) {
    const values = plot.data[series];
    return [...values.keys()].filter((k) => values[k] != null && values[k - 1] == null && values[k + 1] == null);
  }

  const line = (label, name, more) => ({
    label,
    class: name,
    stroke: stroke(name),
    width: 1.5,
    value: text,
    points: { show: true, size: 4, fill: stroke(name), filter: lonely },
    ...more,
  });

  function shade(plot, spans, name) {
    const { left, top, width, height } = plot.bbox;
    plot.ctx.save();
    plot.ctx.fillStyle = color(name);
    for (const [from, to] of spans) {
      const begin = Math.max(left, plot.valToPos(from, "x", true));
      const end = Math.min(left + width, plot.valToPos(to, "x", true));
      if (end > left && begin < left + width) plot.ctx.fillRect(begin, top, Math.max(end - begin, 2), height);
    }
    plot.ctx.restore();
  }

  const local = (at) => uPlot.tzDate(new Date(at), zone === "UTC" ? "Etc/UTC" : zone);

  const base = (element, more) => ({
    width: element.clientWidth,
    height: HEIGHT,
    ms: 1,
    tzDate: local,
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    ...more,
  });

  const times = ({ start, step }, values) => values.map((_, k) => start + k * step);
  const full = uPlot.fmtDate("{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}");
  const when = { label: "time", value: (_, at) => (at == null ? "" : full(local(at))) };

  // -- the three kinds --------------------------------------------------------------------------------------------

  function drawScore(element, alert) {
    const { score } = alert;
    const most = Math.max(1.25, ...score.values.filter((value) => value != null));
    return new uPlot(
      base(element, {
        scales: { y: { range: [0, 1.08 * most] } },
        axes: [timeAxis(), axis({ values: ticks, size: widthOf, space: 22 })],
        series: [when, line("score", "score"), line("threshold", "threshold", { width: 1, dash: [6, 4], points: { show: false } })],
        hooks: {
          drawClear: [
            (plot) => shade(plot, alert.unknown ?? [], "unknown"),
            (plot) => shade(plot, alert.excluded, "excluded"),
            (plot) => shade(plot, alert.alerts, "alert"),
          ],
        },
      }),
      [times(score, score.values), score.values, score.values.map(() => 1)],
      element,
    );
  }

  function drawMetric(element, alert, metric) {
    const edge = (label, more) => line(label, "edge", { stroke: "transparent", width: 0, points: { show: false }, ...more });
    const usual = (plot, high, series, index) =>
      index == null || high == null ? text(plot, high, series, index) : `${text(plot, plot.data[4][index], 4, index)} to ${text(plot, high, 3, index)}`;
    return new uPlot(
      base(element, {
        axes: [timeAxis(), axis({ values: ticks, size: widthOf, space: 22 })],
        series: [
          when,
          line("observed", "observed", { width: 2 }),
          line("expected", "expected", { dash: [4, 3] }),
          edge("usual", { class: "band", value: usual }),
          edge("from"),
        ],
        bands: [{ series: [3, 4], fill: stroke("band") }],
        hooks: {
          drawClear: [
            (plot) => shade(plot, alert.unknown ?? [], "unknown"),
            (plot) => shade(plot, alert.excluded, "excluded"),
            (plot) => shade(plot, alert.alerts, "alert"),
          ],
        },
      }),
      [times(metric, metric.observed), metric.observed, metric.expected, metric.high, metric.low],
      element,
    );
  }

  function drawDays(element) {
    const bars = uPlot.paths.bars({ size: [0.7, 40] });
    const count = days.days.length;
    const bar = (label, name) => ({
      label, class: name, stroke: stroke(name), fill: stroke(name), width: 0, paths: bars, points: { show: false }, value: text,
    });
    return new uPlot(
      base(element, {
        scales: { x: { time: false, range: [-0.7, count - 0.3] }, y: { range: [0, Math.max(3, Math.ceil(1.1 * Math.max(...days.total)))] } },
        axes: [
          axis({
            space: 60,
            incrs: [1, 2, 5, 7, 14, 30, 90, 365],
            grid: { show: false },
            values: (_, splits) => splits.map((day) => days.days[day]?.slice(5) ?? ""),
          }),
          axis({ size: widthOf, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], values: ticks }),
        ],
        series: [{ label: "day", value: (_, day) => days.days[day] ?? "" }, bar("alerts", "warning"), bar("critical", "critical")],
      }),
      [days.days.map((_, k) => k), days.total, days.critical],
      element,
    );
  }

  // -- when they are drawn ----------------------------------------------------------------------------------------

  function draw(element) {
    if (plots.has(element)) return;
    if (element.id === "days") {
      plots.set(element, drawDays(element));
      return;
    }
    const alert = alerts[element.dataset.alert];
    const which = element.dataset.plot;
    plots.set(element, which === "score" ? drawScore(element, alert) : drawMetric(element, alert, alert.metrics[which]));
  }

  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" },
  );
  const sized = new ResizeObserver((entries) => {
    if (document.documentElement.classList.contains("printing")) return;
    for (const { target } of entries) {
      const plot = plots.get(target);
      if (plot && target.clientWidth && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  });
  const redraw = () => plots.forEach((plot) => plot.redraw(false, true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // paper is white and has a width of its own
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    elements.forEach(draw);
    plots.forEach((plot, element) =>
      plot.setSize({
        width: element.dataset.plot === "score" ? PRINTED.score : PRINTED.metric,
        height: PRINTED.height,
      }),
    );
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    plots.forEach((plot, element) => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    redraw();
  });

  function show() {
    ({ zone, days, alerts } = JSON.parse(document.getElementById("drawn").textContent));
    seen.disconnect();
    sized.disconnect();
    plots.forEach((plot) => plot.destroy());
    plots.clear();
    elements = [...document.querySelectorAll("#days, .plot")];
    for (const element of elements) {
      if (element.getBoundingClientRect().top < innerHeight) draw(element);
      seen.observe(element);
      sized.observe(element);
    }
  }

  show();
  return { show };
})();
