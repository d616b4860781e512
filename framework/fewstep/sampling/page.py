"""An HTML page that plays the sampling of text, step by step. It loads no other file.

Shapes: F frames, K samples, L tokens.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from itertools import pairwise

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #222;
         background: #fff }
  h1 { font-size: 1.1rem; font-weight: 600; margin: 0 0 .5rem }
  #bar { position: sticky; top: 0; background: #fff; padding: .5rem 0; display: flex; gap: .75rem;
         align-items: center; border-bottom: 1px solid #ddd; flex-wrap: wrap }
  #step { flex: 1; min-width: 10rem }
  #where { font-variant-numeric: tabular-nums; min-width: 13rem }
  button { font: inherit; min-width: 5rem; padding: .2rem .6rem }
  h2 { font-size: .8rem; font-weight: 400; color: #666; margin: 1rem 0 .2rem }
  .sample { font: 15px/1.6 ui-monospace, monospace; border: 1px solid #e4e4e4; border-radius: 4px; padding: .6rem }
  .flow { white-space: pre-wrap; overflow-wrap: anywhere }
  .cells { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 2px; text-align: center }
  .masked { background: #e6e6e6; color: #a0a0a0 }
  .given { font-weight: 700; border-bottom: 2px solid #222 }
  .key { padding: 0 .3rem }
  #key { font-size: .85rem; color: #444; margin: .6rem 0 0 }
</style>
<h1>%(title)s</h1>
<div id="bar">
  <button id="play" type="button">Play</button>
  <input id="step" type="range" min="0" step="1" value="0" aria-label="step">
  <span id="where" role="status"></span>
  <label><input id="order" type="checkbox"> colour by time</label>
</div>
<p id="key"></p>
<main id="samples"></main>
<script type="application/json" id="data">%(data)s</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [play, slider, where, order, key] =
  ["play", "step", "where", "order", "key"].map((id) => document.getElementById(id));
const last = data.times.length - 1;
slider.max = last;
const noise = data.symbols.length;
const visible = (token) => token >= noise ? "\\u00b7" : data.flowing
  ? data.symbols[token].replaceAll("\\n", "\\u21b5\\n").replaceAll("\\t", "\\u2192\\t") : data.symbols[token];
const cells = data.first.map((tokens, k) => {
  const title = document.createElement("h2");
  title.textContent = "sample " + k;
  const box = document.createElement("div");
  box.className = "sample " + (data.flowing ? "flow" : "cells");
  document.getElementById("samples").append(title, box);
  return tokens.map(() => box.appendChild(document.createElement("span")));
});
// The colour of a token that appeared at a step: bright when it is new, then fading; or all by when they appeared.
function colour(age, at) {
  if (order.checked) return `hsl(${Math.round(250 - 200 * at / Math.max(1, last))} 80%% 85%%)`;
  const fresh = Math.max(0, 1 - age / Math.max(1, Math.min(4, last / 4)));
  return fresh ? `rgba(255, 170, 40, ${fresh.toFixed(2)})` : "";
}
function show(step) {
  slider.value = step;
  where.textContent = `step ${step} of ${last}, t = ${data.times[step].toFixed(3)}`;
  cells.forEach((row, k) => {
    const tokens = data.first[k].slice(), at = tokens.map(() => 0);
    for (let f = 1; f <= step; f++) for (const [i, token] of data.changes[f - 1][k]) { tokens[i] = token; at[i] = f; }
    row.forEach((cell, i) => {
      const masked = tokens[i] >= noise, given = data.given !== null && data.given[k][i] >= 0;
      cell.textContent = visible(tokens[i]);
      cell.className = masked ? "masked" : given ? "given" : "";
      cell.style.background = masked || given || (at[i] === 0 && !order.checked) ? "" : colour(step - at[i], at[i]);
      cell.title = masked ? "masked" : given ? "given" : "since step " + at[i];
    });
  });
}
const sample = (text, style) => `<span class="key" style="${style}">${text}</span>`;
function explain() {
  const grey = data.masks ? sample("&middot;", "background:#e6e6e6") + " masked " : "";
  const given = data.given === null ? "" : " " + sample("given", "font-weight:700;border-bottom:2px solid #222");
  key.innerHTML = grey + (order.checked ? sample("early", "background:hsl(250 80%% 85%%)") +
    sample("middle", "background:hsl(150 80%% 85%%)") + sample("late", "background:hsl(50 80%% 85%%)")
    : sample("new", "background:rgb(255,170,40)") + " fades over the next steps") + given;
}
let timer = null;
function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
play.onclick = () => {
  if (timer !== null) return stop();
  if (Number(slider.value) === last) show(0);
  play.textContent = "Pause";
  timer = setInterval(() => {
    show(Number(slider.value) + 1);
    if (Number(slider.value) === last) stop();
  }, Math.max(60, Math.min(700, 8000 / Math.max(1, last))));
};
slider.oninput = () => { stop(); show(Number(slider.value)); };
order.onchange = () => { explain(); show(Number(slider.value)); };
explain();
show(last);
</script>
</html>
"""


def page(
    title: str,
    symbols: Sequence[str],
    times: Sequence[float],
    tokens: Sequence[Sequence[Sequence[int]]],
    templates: Sequence[Sequence[int]] | None,
    *,
    flowing: bool,
) -> str:
    """The text of the page.

    Args:
        title: heading.
        symbols: text of each token; larger tokens are masks.
        times: t of each frame [F].
        tokens: tokens of each frame and sample [F, K, L].
        templates: fixed tokens of each sample [K, L], -1 where a token was drawn.
        flowing: whether tokens make a text together; otherwise each has a cell.
    """
    data = {
        "symbols": symbols,
        "times": times,
        "first": tokens[0],
        "changes": [[_changes(*rows) for rows in zip(*pair, strict=True)] for pair in pairwise(tokens)],
        "given": templates,
        "flowing": flowing,
        "masks": any(token >= len(symbols) for row in tokens[0] for token in row),
    }
    # Only "<" could end a script element early.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE % {"title": html.escape(title), "data": text}


def _changes(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """(place, token) of every token that changed."""
    return [(i, new) for i, (old, new) in enumerate(zip(before, after, strict=True)) if new != old]
