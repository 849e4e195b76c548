"use strict";
(() => {
  const charts = LightweightCharts;
  const most = 2000; // blank points of one gap
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const read = (name) => {
    const found = document.getElementById(name);
    return found && JSON.parse(found.textContent);
  };
  const drawn = [];

  function create(name, options) {
    const place = document.getElementById(name);
    const chart = charts.createChart(place, {
      autoSize: true,
      layout: { attributionLogo: true, panes: { enableResize: false } },
      timeScale: { timeVisible: true, secondsVisible: false, minBarSpacing: 0.005, rightOffset: 2 },
      ...options,
    });
    place.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target !== place) return;
      const scale = chart.timeScale();
      const range = scale.getVisibleLogicalRange();
      if (!range) return;
      const width = range.to - range.from;
      const show = (from, to) => scale.setVisibleLogicalRange({ from, to });
      if (event.key === "ArrowLeft") show(range.from - width / 10, range.to - width / 10);
      else if (event.key === "ArrowRight") show(range.from + width / 10, range.to + width / 10);
      else if (event.key === "+" || event.key === "=") show(range.from + width / 8, range.to - width / 8);
      else if (event.key === "-") show(range.from - width / 6, range.to + width / 6);
      else if (event.key === "Home") scale.fitContent();
      else return;
      event.preventDefault();
    });
    return chart;
  }

  function paint() {
    for (const { chart, series } of drawn) {
      chart.applyOptions({
        layout: { background: { color: color("paper") }, textColor: color("ink") },
        grid: { vertLines: { color: color("line") }, horzLines: { color: color("line") } },
        rightPriceScale: { borderColor: color("line") },
        timeScale: { borderColor: color("line") },
      });
      series();
    }
  }

  function drawEquity(data, marked) {
    const chart = create("equity-chart", {});
    const line = chart.addSeries(charts.AreaSeries, { lineWidth: 2, title: "equity", priceLineVisible: false });
    const fall = chart.addSeries(charts.AreaSeries, { lineWidth: 1, title: "drawdown", priceLineVisible: false, invertFilledArea: true }, 1);
    const times = data.values.map((_, index) => data.first + index * data.step);
    line.setData(times.map((time, index) => ({ time, value: data.values[index] })));
    fall.setData(times.map((time, index) => ({ time, value: -data.falls[index] })));
    const real = marked && chart.addSeries(charts.LineSeries, { lineWidth: 2, lineStyle: 2, title: "marked", priceLineVisible: false });
    if (real) real.setData(marked.values.map((value, index) => ({ time: marked.first + index * marked.step, value })));
    chart.panes()[1].setStretchFactor(0.4);
    chart.timeScale().fitContent();
    drawn.push({
      chart,
      series: () => {
        line.applyOptions({ lineColor: color("mark"), topColor: color("mark") + "55", bottomColor: color("mark") + "05" });
        fall.applyOptions({ lineColor: color("down"), topColor: color("down") + "05", bottomColor: color("down") + "66" });
        if (real) real.applyOptions({ color: color("ink") });
      },
    });
  }

  async function unpack(data) {
    const packed = Uint8Array.from(atob(data.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    let place = 0;
    const column = () => {
      const values = new Array(data.count);
      for (let index = 0; index < data.count; index++) {
        let value = 0, factor = 1, byte;
        do {
          byte = bytes[place++];
          value += (byte & 127) * factor;
          factor *= 128;
        } while (byte > 127);
        values[index] = value % 2 ? -(value + 1) / 2 : value / 2;
      }
      return values;
    };
    const [times, opens, highs, lows, closes, volumes] = [column(), column(), column(), column(), column(), column()];
    const price = 10 ** -data.places, amount = 10 ** -data.volumePlaces;
    const steps = times.slice(1).filter((step) => step > 0);
    const step = steps.reduce((least, value) => (value < least ? value : least), steps[0] || 60);
    const candles = [], bars = [];
    let time = 0, before = 0;
    for (let index = 0; index < data.count; index++) {
      const missing = index ? Math.round(times[index] / step) - 1 : 0;
      for (let blank = 1; blank <= Math.min(missing, most); blank++) candles.push({ time: time + blank * step });
      time += times[index];
      const open = before + opens[index], close = open + closes[index];
      const high = Math.max(open, close) + highs[index], low = Math.min(open, close) - lows[index];
      candles.push({ time, open: open * price, high: high * price, low: low * price, close: close * price });
      bars.push({ time, value: volumes[index] * amount });
      before = close;
    }
    return { candles, bars };
  }

  async function drawCandles(data) {
    if (!window.DecompressionStream) {
      document.getElementById("candle-chart").textContent = "This browser is too old to show the candles.";
      return;
    }
    const { candles, bars } = await unpack(data);
    const places = Math.max(data.places, 0);
    const chart = create("candle-chart", {});
    const series = chart.addSeries(charts.CandlestickSeries, {
      priceFormat: { type: "price", precision: places, minMove: 10 ** -places },
      priceLineVisible: false,
    });
    const volume = chart.addSeries(charts.HistogramSeries, { priceFormat: { type: "volume" }, priceLineVisible: false, title: "volume" }, 1);
    series.setData(candles);
    volume.setData(bars);
    const marks = charts.createSeriesMarkers(series, []);
    chart.panes()[1].setStretchFactor(0.3);
    const last = candles.length;
    if (last > 400) chart.timeScale().setVisibleLogicalRange({ from: last - 400, to: last + 2 });
    else chart.timeScale().fitContent();
    drawn.push({
      chart,
      series: () => {
        // a candle that rose is hollow, so that color is not the only sign
        series.applyOptions({
          upColor: color("paper"), borderUpColor: color("up"), wickUpColor: color("up"),
          downColor: color("down"), borderDownColor: color("down"), wickDownColor: color("down"),
        });
        volume.applyOptions({ color: color("soft") });
        marks.setMarkers(data.marks.map((mark) => mark.net === undefined
          ? { time: mark.time, position: "belowBar", shape: mark.side === "long" ? "arrowUp" : "arrowDown", color: color("mark"), text: mark.side }
          : { time: mark.time, position: "aboveBar", shape: mark.won ? "circle" : "square", color: color(mark.won ? "up" : "down"), text: mark.net }));
      },
    });
  }

  async function main() {
    const equity = read("equity-data"), candles = read("candle-data");
    if (equity) drawEquity(equity, read("marked-data"));
    if (candles) await drawCandles(candles);
    paint();
    // for programs that read the page, e.g. its tests
    window.iftbStore = { charts: drawn.map(({ chart }) => chart), read, unpack };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    document.documentElement.dataset.ready = "yes";
  }
  main();
})();
