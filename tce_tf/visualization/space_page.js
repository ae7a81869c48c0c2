// The page's behaviour. What came from outside reaches the document through textContent alone.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const videoOf = data.videos.flatMap((video, number) => Array(video.count).fill(number));
const classes = [...new Set(data.videos.map((video) => video.label).filter((label) => label !== null))].sort();
const PLOT = { displaylogo: false, responsive: true, scrollZoom: true, doubleClick: "reset",
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };
const RAMP = [[76, 120, 255], [209, 79, 168], [255, 171, 46]]; // start to end, seen on light and dark
const state = { frame: 0, hovered: null, timer: null, matches: data.videos.map(() => true) };
// Without WebGL (no graphics card, a browser that refuses one) points are SVG: slower, the same picture.
const trace = document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function create(tag, text, parent) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// Colours

function hue(number) { // golden angle: any number of hues, neighbours in the list far apart
  const light = parseFloat(css("--light")) / 100, reach = 0.68 * Math.min(light, 1 - light);
  const part = (n) => {
    const k = (n + number * 137.508 / 30) % 12;
    return Math.round(255 * (light - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return `rgb(${part(0)},${part(8)},${part(4)})`;
}

function ramp(share) {
  const [from, to] = share < 0.5 ? [RAMP[0], RAMP[1]] : [RAMP[1], RAMP[2]];
  const rest = share < 0.5 ? 2 * share : 2 * share - 1;
  return `rgb(${from.map((value, i) => Math.round(value + rest * (to[i] - value)))})`;
}

function videoColour(number) {
  const mode = at("colour").value, label = data.videos[number].label;
  if (mode === "time") return null;
  if (mode === "video") return hue(number);
  return label === null ? css("--path") : hue(classes.indexOf(label));
}

function frameColours() {
  const faint = css("--faint");
  return data.videos.flatMap((video, number) => {
    const colour = videoColour(number);
    return Array.from({ length: video.count }, (_, i) =>
      !state.matches[number] ? faint : colour ?? ramp(i / Math.max(video.count - 1, 1)));
  });
}

// Frames: a sheet of thumbnails a video, decoded when first looked at

function sheet(video) {
  if (!video.image) {
    video.image = new Image();
    video.image.src = "data:image/jpeg;base64," + video.sheet;
    video.ready = video.image.decode();
  }
  return video.ready;
}

async function draw(canvas, frame) {
  const video = data.videos[videoOf[frame]], number = frame - video.start;
  canvas.dataset.frame = frame;
  canvas.setAttribute("aria-label", describe(frame));
  await sheet(video);
  if (canvas.dataset.frame !== String(frame)) return; // another one was asked for meanwhile
  const [width, height] = video.cell;
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(video.image, (number % video.columns) * width,
    Math.floor(number / video.columns) * height, width, height, 0, 0, width, height);
}

function describe(frame) {
  const video = data.videos[videoOf[frame]];
  const kind = video.label === null ? "" : `${video.label}, `;
  return `${video.name}: ${kind}frame ${frame - video.start + 1} of ${video.count}, ${data.seconds[frame].toFixed(2)} s`;
}

// Plots, one an encoder

function ring(encoder, frame, radius, colour, fill) {
  return { type: "circle", xsizemode: "pixel", ysizemode: "pixel", xanchor: encoder.x[frame],
    yanchor: encoder.y[frame], x0: -radius, x1: radius, y0: -radius, y1: radius,
    line: { color: colour, width: 2 }, fillcolor: fill };
}

function marks(encoder) { // shapes are redrawn alone, without the points
  const video = data.videos[videoOf[state.frame]], text = css("--text"), shapes = [];
  if (video.count > 1) {
    const path = Array.from({ length: video.count }, (_, i) => `${encoder.x[video.start + i]},${encoder.y[video.start + i]}`);
    // No hue: it must be told from all of them; the edge lifts it out of a crowd.
    for (const [color, width] of [[css("--back"), 4], [text, 2]]) {
      shapes.push({ type: "path", path: "M" + path.join("L"), line: { color, width } });
    }
  }
  if (!state.timer) {
    for (const frame of neighbours(encoder).frames) shapes.push(ring(encoder, frame, 6, text, "rgba(0,0,0,0)"));
  }
  if (state.hovered !== null) shapes.push(ring(encoder, state.hovered, 10, text, "rgba(0,0,0,0)"));
  shapes.push(ring(encoder, state.frame, 8, text, css("--accent")));
  return shapes;
}

function layout(encoder) {
  const axis = { visible: false, showgrid: false, zeroline: false };
  return { margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, hovermode: "closest", hoverdistance: 14,
    dragmode: "pan", paper_bgcolor: css("--back"), plot_bgcolor: css("--back"), shapes: marks(encoder),
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") },
    xaxis: { ...axis }, yaxis: { ...axis, scaleanchor: "x" } };
}

function traces(encoder) {
  const gaps = (values) => data.videos.flatMap((video) => [...values.slice(video.start, video.start + video.count), null]);
  return [
    { type: trace, mode: "lines", x: gaps(encoder.x), y: gaps(encoder.y), hoverinfo: "skip", opacity: 0.45,
      line: { width: 1, color: css("--path") } },
    { type: trace, mode: "markers", x: encoder.x, y: encoder.y, hoverinfo: "none",
      marker: { size: videoOf.length > 1500 ? 4 : 7, color: frameColours(), line: { width: 0 } } },
  ];
}

function show(encoder) {
  encoder.section.hidden = false;
  Plotly.newPlot(encoder.plot, traces(encoder), layout(encoder), PLOT);
  encoder.plot.on("plotly_hover", (event) => hover(event.points[0].pointNumber, event.event));
  encoder.plot.on("plotly_unhover", () => hover(null));
  encoder.plot.on("plotly_click", (event) => { choose(event.points[0].pointNumber); play(true); });
}

function hide(encoder) { // a browser has few WebGL contexts
  encoder.section.hidden = true;
  Plotly.purge(encoder.plot);
}

const shown = () => data.encoders.filter((encoder) => !encoder.section.hidden);
const drawMarks = () => shown().forEach((encoder) => Plotly.relayout(encoder.plot, { shapes: marks(encoder) }));

function drawColours() {
  const colours = frameColours();
  for (const encoder of shown()) Plotly.restyle(encoder.plot, { "marker.color": [colours] }, [1]);
}

function hover(frame, event) {
  state.hovered = frame;
  const tip = at("tip");
  tip.hidden = frame === null;
  if (frame !== null) {
    draw(tip.querySelector("canvas"), frame);
    tip.querySelector("span").textContent = describe(frame);
    const left = event.clientX + 16, top = event.clientY + 16;
    tip.style.left = `${left + tip.offsetWidth > innerWidth ? left - tip.offsetWidth - 32 : left}px`;
    tip.style.top = `${Math.min(top, innerHeight - tip.offsetHeight - 4)}px`;
  }
  drawMarks();
}

// The chosen frame

function choose(frame) {
  const video = data.videos[videoOf[frame]], number = videoOf[frame];
  state.frame = frame;
  draw(at("frame"), frame);
  at("name").textContent = video.name;
  at("place").textContent = describe(frame).slice(video.name.length + 2);
  at("slider").max = video.count - 1;
  at("slider").value = frame - video.start;
  const list = at("videos"), before = list.querySelector("[aria-selected=true]"), now = at(`video-${number}`);
  if (before !== now) {
    before?.setAttribute("aria-selected", "false");
    now.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", now.id);
    if (!now.hidden) list.scrollTop = now.offsetTop - list.offsetTop - list.clientHeight / 2;
  }
  if (!state.timer) drawNeighbours();
  drawMarks();
}

function neighbours(encoder) {
  const table = at("others").checked ? encoder.nearest_elsewhere : encoder.nearest;
  return { frames: table.frames[state.frame], cosines: table.cosines[state.frame] };
}

function drawNeighbours() {
  at("nearest").replaceChildren();
  for (const encoder of shown()) {
    create("h3", `${encoder.name}, by cosine`, at("nearest"));
    const row = create("div", null, at("nearest")), { frames, cosines } = neighbours(encoder);
    if (!frames.length) create("p", "none", row);
    frames.forEach((frame, i) => {
      const button = create("button", null, row);
      button.type = "button";
      button.title = describe(frame);
      draw(create("canvas", null, button), frame);
      create("span", cosines[i].toFixed(3), button);
      button.addEventListener("click", () => { play(false); choose(frame); });
    });
  }
}

function play(on) {
  clearInterval(state.timer);
  state.timer = null;
  const video = data.videos[videoOf[state.frame]];
  if (on) {
    if (state.frame === video.start + video.count - 1) choose(video.start);
    state.timer = setInterval(() => {
      if (state.frame + 1 < video.start + video.count) choose(state.frame + 1);
      else play(false);
    }, Math.max(40, Math.min(150, 12000 / video.count)));
  }
  at("play").textContent = on ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", on);
  at("place").setAttribute("aria-live", on ? "off" : "polite"); // or a reader would read every frame
  if (!on) choose(state.frame);
}

function step(frames) {
  const video = data.videos[videoOf[state.frame]];
  play(false);
  choose(Math.max(video.start, Math.min(video.start + video.count - 1, state.frame + frames)));
}

function stepVideo(by) {
  const found = data.videos.map((_, number) => number).filter((number) => state.matches[number]);
  if (!found.length) return;
  const here = found.indexOf(videoOf[state.frame]);
  const next = here < 0 ? 0 : Math.max(0, Math.min(found.length - 1, here + by));
  play(false);
  choose(data.videos[found[next]].start);
}

// Lists, legend, theme

function drawLegend() {
  const legend = at("legend"), mode = at("colour").value;
  legend.replaceChildren();
  const add = (colour, text) => {
    const item = create("span", null, legend);
    const swatch = create("span", null, item);
    swatch.className = "swatch";
    swatch.style.background = colour;
    item.append(text);
  };
  if (mode === "class") classes.forEach((label, number) => add(hue(number), label));
  if (mode === "class" && data.videos.some((video) => video.label === null)) add(css("--path"), "no class");
  if (mode === "video") create("span", "each video has a colour, beside its name", legend);
  if (mode === "time") {
    create("span", "first frame", legend);
    const bar = create("span", null, legend);
    bar.className = "ramp";
    bar.style.background = `linear-gradient(to right, ${[0, 0.5, 1].map(ramp)})`;
    create("span", "last frame", legend);
  }
  data.videos.forEach((_, number) => {
    const colour = videoColour(number), swatch = at(`video-${number}`).firstChild;
    swatch.hidden = colour === null;
    swatch.style.background = colour ?? "";
  });
}

function search() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  state.matches = data.videos.map((video) => {
    const text = `${video.name} ${video.label ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  state.matches.forEach((matches, number) => { at(`video-${number}`).hidden = !matches; });
  at("found").textContent = `${state.matches.filter(Boolean).length} of ${data.videos.length} videos, ${videoOf.length} frames`;
  drawColours();
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  at("theme").setAttribute("aria-pressed", dark);
  drawLegend();
  for (const encoder of shown()) Plotly.react(encoder.plot, traces(encoder), layout(encoder), PLOT);
}

function onKey(event) {
  const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => stepVideo(-1),
    ArrowDown: () => stepVideo(1), Home: () => step(-Infinity), End: () => step(Infinity),
    " ": () => play(!state.timer), Enter: () => play(!state.timer) };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
}

function start() {
  data.videos.forEach((video, number) => {
    const item = create("li", null, at("videos"));
    item.id = `video-${number}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    create("span", null, item).className = "swatch";
    create("span", video.name, item);
    item.addEventListener("click", () => { choose(video.start); play(true); });
  });
  for (const encoder of data.encoders) {
    encoder.section = create("section", null, at("plots"));
    create("h2", encoder.name, encoder.section);
    create("p", encoder.figures, encoder.section);
    encoder.plot = create("div", null, encoder.section);
    encoder.plot.className = "plot";
    encoder.button = create("button", encoder.name, at("encoders"));
    encoder.button.type = "button";
    encoder.button.addEventListener("click", () => {
      const isShown = !encoder.section.hidden;
      if (isShown && shown().length === 1) return; // one is always seen
      isShown ? hide(encoder) : show(encoder);
      encoder.button.setAttribute("aria-pressed", !isShown);
      shown().forEach((other) => Plotly.Plots.resize(other.plot));
      choose(state.frame);
    });
  }
  data.explanations.forEach((line) => create("p", line, at("meaning")));
  at("meaning").hidden = !data.explanations.length;
  at("encoders").hidden = data.encoders.length === 1;
  if (!classes.length) at("colour").querySelector("[value=class]").remove();
  // Two side by side are read well; more are a click away.
  data.encoders.forEach((encoder, number) => {
    encoder.section.hidden = true;
    encoder.button.setAttribute("aria-pressed", number < 2);
  });
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(prefersDark.matches);
  data.encoders.slice(0, 2).forEach((encoder) => { encoder.section.hidden = false; });
  shown().forEach(show);
  prefersDark.addEventListener("change", (event) => setTheme(event.matches));
  at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  at("colour").addEventListener("change", () => { drawLegend(); drawColours(); });
  at("others").addEventListener("change", () => choose(state.frame));
  at("slider").addEventListener("input", (event) => {
    play(false);
    choose(data.videos[videoOf[state.frame]].start + Number(event.target.value));
  });
  at("play").addEventListener("click", () => play(!state.timer));
  at("map").addEventListener("keydown", onKey);
  at("videos").addEventListener("keydown", onKey);
  at("search").addEventListener("input", search);
  at("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") stepVideo(0);
    if (event.key === "ArrowDown") { event.preventDefault(); at("videos").focus(); stepVideo(0); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement.id !== "search") {
      event.preventDefault();
      at("search").focus();
    }
    if (event.key === "Escape") play(false);
  });
  search();
  choose(0);
  document.documentElement.dataset.ready = "true"; // for the tests
}

start();
