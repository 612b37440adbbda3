"""How a page looks: its colours, for light and for dark, and its style sheet. No script, no font, nothing to fetch.

The measures: text of 16 pixels, lines of 70 letters, one column on a phone; what is wider than the screen scrolls by
itself. Each pair of a text and its ground has a contrast of 4.5 at least (WCAG 2.1, 1.4.3), which a test holds.
"""

# Text and ground. ink: text; soft: captions; rule: lines; panel: what is set apart; accent: links and the best.
LIGHT = {"page": "#fdfdfc", "ink": "#1c1e21", "soft": "#5a616a", "rule": "#dfe0dd", "panel": "#f3f3f0",
         "accent": "#1d5ea6", "bad": "#a5301c", "badpanel": "#fbefec"}  # fmt: skip
DARK = {"page": "#15171a", "ink": "#e7e7e4", "soft": "#a0a7af", "rule": "#31363c", "panel": "#1e2125",
        "accent": "#82b6f2", "bad": "#f29a86", "badpanel": "#2e1f1c"}  # fmt: skip

# The lines of a chart, told apart with any colour vision: after Okabe and Ito, darker on white and lighter on black.
LINES = {"light": ["#0b62a8", "#bf4b06", "#00795c", "#8a3f86", "#7d6300"],
         "dark": ["#6cb4f5", "#f0914f", "#3ecfa0", "#d793d2", "#dfc04c"]}  # fmt: skip

# A heat map, from near to far: from the colour of the page to the one that stands out most. Ground and text.
HEAT = {
    "light": [("#eff4fa", "#1c1e21"), ("#d6e5f4", "#1c1e21"), ("#b4d0ea", "#1c1e21"), ("#8ab7dd", "#1c1e21"),
              ("#5f9bce", "#1c1e21"), ("#2b6cab", "#ffffff"), ("#124a85", "#ffffff")],
    "dark": [("#1b2632", "#f0f0ee"), ("#1f364f", "#f0f0ee"), ("#244a71", "#f0f0ee"), ("#2b6095", "#f0f0ee"),
             ("#5a93c8", "#101215"), ("#8fbce6", "#101215"), ("#c6e1fb", "#101215")],
}  # fmt: skip


def variables(theme: str) -> str:
    """The colours of a theme as CSS variables: --ink, --s0 (lines), --h0 and --t0 (ground and text of a heat map)."""
    found = {f"--{name}": colour for name, colour in (LIGHT if theme == "light" else DARK).items()}
    found |= {f"--s{number}": colour for number, colour in enumerate(LINES[theme])}
    for number, (ground, text) in enumerate(HEAT[theme]):
        found |= {f"--h{number}": ground, f"--t{number}": text}
    return "".join(f"{name}:{colour};" for name, colour in found.items())


RULES = """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 28px }
header { padding-top: 52px }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; margin: 0 0 6px;
  overflow-wrap: anywhere }
h2 { font-size: 21px; line-height: 1.3; font-weight: 650; margin: 0 0 10px; padding-top: 26px;
  border-top: 1px solid var(--rule) }
h3 { font-size: 16px; font-weight: 650; margin: 30px 0 10px }
p { max-width: 70ch; margin: 0 0 12px }
section { margin-top: 44px }
a { color: var(--accent); text-underline-offset: 3px }
.kind, .soft, figcaption, caption, footer { color: var(--soft); font-size: 14px }
.kind { margin-bottom: 18px; overflow-wrap: anywhere }
.lead { font-size: 19px; line-height: 1.5; max-width: 64ch; margin: 0 0 8px }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; margin-top: 18px; font-size: 14px }
nav a { text-decoration: none; padding: 4px 0 }
nav a:hover { text-decoration: underline }
footer { margin-top: 60px; padding-top: 16px; padding-bottom: 48px }
code, pre { font: 13.5px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace }
pre { background: var(--panel); padding: 14px 16px; border-radius: 6px; overflow-x: auto; margin: 12px 0 }

.facts { display: grid; grid-template-columns: minmax(110px, max-content) minmax(0, 1fr); gap: 5px 22px; margin: 12px 0;
  font-size: 15px }
.facts dt { color: var(--soft) }
.facts dd { margin: 0; overflow-wrap: anywhere }
.tiles { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 22px 0 4px }
.tiles div { min-width: 90px }
.tiles b { display: block; font-size: 24px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums }
.tiles span { color: var(--soft); font-size: 14px }

.wide { overflow-x: auto; margin: 14px 0; max-width: 100% }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: 0 0 8px }
th, td { padding: 7px 22px 7px 0; text-align: left; vertical-align: baseline; font-weight: 400 }
th:last-child, td:last-child { padding-right: 0 }
thead th { color: var(--soft); font-size: 14px; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: bottom }
tbody tr + tr > * { border-top: 1px solid var(--rule) }
tbody tr.group > * { border-top: 0; padding-top: 26px; font-weight: 650 }
tbody tr.group:first-child > * { padding-top: 14px }
tbody tr.group + tr > * { border-top: 1px solid var(--rule) }
.n { text-align: right; white-space: nowrap }
.line { white-space: nowrap }
tbody th { white-space: nowrap }
tr.floor > * { color: var(--soft) }
.range { color: var(--soft); font-size: 13px; white-space: nowrap }
.chip { display: inline-block; font-size: 12px; line-height: 1; padding: 3px 7px; margin-left: 8px; border-radius: 9px;
  color: var(--soft); border: 1px solid var(--rule); white-space: nowrap; vertical-align: 1px }
.chip.best { color: var(--page); background: var(--accent); border-color: var(--accent); font-weight: 600 }
.chip.bad { color: var(--bad); border-color: var(--bad) }
.bad { color: var(--bad) }

.span { position: relative; width: 200px; height: 14px; vertical-align: middle; padding: 0 }
.span i { position: absolute; background: var(--soft) }
.span .axis { left: 0; right: 0; top: 50%; height: 1px; background: var(--rule) }
.span .reach { top: calc(50% - 1px); height: 3px; min-width: 1px; border-radius: 2px }
.span .dot { top: calc(50% - 4px); width: 9px; height: 9px; margin-left: -4px; border-radius: 50% }
.best .span .reach, .best .span .dot { background: var(--accent) }
.floor .span .dot { background: var(--page); border: 2px solid var(--soft) }
tr.best > td b { color: var(--accent) }

.maps { display: flex; flex-wrap: wrap; gap: 10px 48px; align-items: flex-start }
.maps > div { max-width: 100% }
.heat { border-collapse: separate; border-spacing: 3px; margin-left: -3px }
.heat td, .heat th { padding: 6px 10px }
.heat th:first-child { padding-left: 0; white-space: nowrap }
.heat thead th { text-align: center; border: 0 }
.heat thead th:first-child { text-align: left }
.heat tbody tr > * { border: 0 }
.heat td { text-align: center; min-width: 70px; height: 46px; vertical-align: middle; border-radius: 5px }
.heat td.none { color: var(--soft); font-size: 13px; background-color: var(--panel) }
.heat td.failed { color: var(--bad); font-size: 13px; background-color: var(--badpanel) }
.heat td.real { color: var(--soft); background: none }
.heat td b { font-weight: 700; text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 4px }
.heat small { display: block; color: var(--soft); font-size: 13px }
.heat td small { color: inherit }
.key { display: flex; align-items: center; gap: 8px; font-size: 13px; color: var(--soft); margin: 4px 0 }
.key i { width: 22px; height: 11px; margin-right: -8px }
.key i:last-of-type { margin-right: 0 }

.album { display: grid; gap: 22px; margin: 12px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)) }
.album.small { grid-template-columns: repeat(auto-fill, minmax(min(46%, 170px), 1fr)); gap: 16px }
.album.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
figure { margin: 0; min-width: 0 }
figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #fff }
figure img.fine { image-rendering: pixelated }
.album figure img { width: 100% }
.album.large { justify-items: start }
.album.large figure img { width: auto }
.album.one { grid-template-columns: minmax(0, 1fr) }
.album.one figure { overflow-x: auto }
.album.one figure img { width: auto }
figcaption { margin-top: 7px; overflow-wrap: anywhere }
figcaption b { color: var(--ink); font-weight: 600 }
.absent { display: flex; align-items: center; justify-content: center; aspect-ratio: 1; padding: 18px; font-size: 14px;
  text-align: center; border-radius: 4px; color: var(--soft); background: var(--panel); overflow-wrap: anywhere }
.absent.bad { color: var(--bad); background: var(--badpanel) }

.charts { display: grid; gap: 26px 34px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  margin: 12px 0 }
.charts.two { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
.charts h4 { font-size: 14px; font-weight: 600; margin: 0 0 4px }
.chart { margin-bottom: 30px; min-width: 0; font-size: 12.5px; line-height: 1.4; color: var(--soft) }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; margin-bottom: 8px; align-items: baseline }
.legend b { color: var(--ink); font-weight: 600 }
.legend i { display: inline-block; width: 16px; height: 0; border-top: 3px solid; vertical-align: 3px;
  margin-right: 6px; border-radius: 2px }
.plot { position: relative; height: 130px; margin: 0 14px 22px 48px; font-variant-numeric: tabular-nums }
.two .plot { height: 190px }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }
.plot svg.cut { overflow: hidden }
.plot path, .plot line { vector-effect: non-scaling-stroke; fill: none; stroke-linejoin: round }
.plot .g { stroke: var(--rule); stroke-width: 1 }
.plot .m { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4 }
.plot .raw { stroke-width: 1; opacity: .38 }
.plot .curve { stroke-width: 2 }
.plot .dots { stroke-width: 6; stroke-linecap: round }
.plot span { position: absolute; white-space: nowrap }
.plot .y { right: 100%; margin-right: 8px; transform: translateY(50%) }
.plot .x { top: 100%; margin-top: 4px; transform: translateX(-50%) }
.columns { columns: 2 320px; column-gap: 56px; margin-top: 14px }
.columns > div { break-inside: avoid; padding-bottom: 18px }
.columns h3 { margin: 0 0 4px }
.columns dl { margin-top: 0 }
ul { margin: 10px 0; padding-left: 20px }
li { margin: 6px 0; max-width: 84ch; overflow-wrap: anywhere }

@media (max-width: 640px) {
  main, header, footer { padding-left: 18px; padding-right: 18px }
  header { padding-top: 30px }
  h1 { font-size: 25px }
  tbody th { white-space: normal; min-width: 84px }
  .lead { font-size: 17px }
  section { margin-top: 34px }
  .facts { grid-template-columns: minmax(84px, 35%) minmax(0, 1fr); gap: 4px 14px }
  th, td { padding-right: 16px }
  .span { width: 90px }
  .range { display: block }
  .chip { margin-left: 0 }
  .tiles { gap: 12px 30px }
  .absent { aspect-ratio: auto; padding: 34px 18px }
  .album.one figure img { max-width: none; width: max(100%, 560px) }
  .heat { font-size: 14px; border-spacing: 2px }
  .heat td { min-width: 56px; padding: 6px 4px }
  .heat thead th { padding: 6px 2px; white-space: normal }
  .heat th:first-child { white-space: normal; padding-right: 4px }
}
@media print {
  main, header, footer { max-width: none; padding: 0 }
  header { padding-top: 0 }
  nav { display: none }
  section { margin-top: 26px }
  figure, tr, .chart { break-inside: avoid }
  h2, h3, h4 { break-after: avoid }
  .wide { overflow: visible }
  .album { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) }
  .charts { grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)) }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""

# Dark on a screen alone: what is printed is light.
STYLE = (
    f":root{{color-scheme:light dark;{variables('light')}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{variables('dark')}}}}}{RULES}"
    + "".join(f".s{n}{{stroke:var(--s{n});border-color:var(--s{n})!important}}" for n in range(len(LINES["light"])))
    + "".join(f".h{n}{{background-color:var(--h{n});color:var(--t{n})}}" for n in range(len(HEAT["light"])))
)
