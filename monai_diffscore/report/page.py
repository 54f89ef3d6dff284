"""One self-contained HTML page: the skeleton of every report.

It does not depend on images or genes: a panel passes sections of tables, charts, pictures and text. The file holds
style, charts (SVG) and pictures (PNG as data URIs). It has no script and fetches nothing, so the page opens on a
cluster's file server, in a mail, and in ten years.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

#: colours with one meaning in all charts: real data, the model, a control, and the two verdicts
COLOURS = {"real": "#5b6b7b", "model": "#0b5cad", "control": "#a8793a", "good": "#1d7a54", "bad": "#b3431e"}

_STYLE = """
:root{--ink:#1b2430;--soft:#5b6b7b;--line:#dfe4ea;--paper:#ffffff;--wash:#f5f7f9;--model:#0b5cad;--good:#1d7a54;
--bad:#b3431e;--control:#a8793a} *{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"DejaVu Sans",sans-serif} main{max-width:1180px;margin:0 auto;padding:48px 32px 80px}
header{border-bottom:3px solid var(--ink);padding-bottom:20px;margin-bottom:28px}
.kind{font-size:13px;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);margin:0 0 6px}
h1{font-size:34px;line-height:1.15;margin:0 0 12px;letter-spacing:-.01em}
.lead{font-size:19px;line-height:1.45;max-width:46em;margin:0} h2{font-size:22px;margin:0 0
6px}h3{font-size:16px;margin:0 0 4px} section{background:var(--paper);border:1px solid
var(--line);border-radius:10px;padding:26px 28px;margin:0 0 22px} section>p{max-width:50em;margin:0 0
14px;color:#38434f} dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px
28px;margin:22px 0 0} dl.facts dt{font-size:12.5px;color:var(--soft)}dl.facts
dd{margin:0;font-weight:600;overflow-wrap:anywhere} .banner{border-left:4px solid
var(--control);background:#fbf5ea;padding:10px 16px;margin:0 0 14px;border-radius:0 6px 6px 0} .wide{overflow-x:auto}
table{border-collapse:separate;border-spacing:0 0;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th{font-weight:600;font-size:13px;text-align:right;color:var(--soft);padding:6px 9px;border-bottom:1.5px solid
var(--ink); vertical-align:bottom} td{padding:9px;border-bottom:1px solid
var(--line);text-align:right;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0} td:first-child{white-space:normal;min-width:190px} td
small{display:block;color:var(--soft);font-size:11.5px}
td.model{font-size:17px;font-weight:700;color:#fff;border-bottom:1px solid #fff} td.model
small{color:#fff;opacity:.92;font-weight:500} td.good{background:var(--good)}td.bad{background:var(--bad)}
td.floor{background:#eaf0f4} td.caught{background:#f6ead6}
td.void{color:#8793a0;background:#fff}
td.missed{color:#8793a0}
.legend{display:flex;flex-wrap:wrap;gap:8px 22px;font-size:13px;color:#38434f;margin-top:14px} .legend
i{display:inline-block;width:14px;height:14px;border-radius:3px;margin-right:7px;vertical-align:-2px}
.multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:26px 30px} .multiples
p{font-size:13.5px;line-height:1.45;margin:4px 0 0;color:#38434f} .multiples b{color:var(--ink)}
figure{margin:0}figure img,figure svg{display:block;max-width:100%;height:auto} figure
img{image-rendering:pixelated;border-radius:4px}
figcaption{font-size:13px;color:var(--soft);margin-top:6px;max-width:60em} footer{font-size:13px;color:var(--soft)}
@media print{body{background:#fff}section{break-inside:avoid;border:0;padding:10px 0}}
"""


@dataclass(frozen=True)
class Section:
    """A heading and its text; ``body`` is HTML from the functions of this module."""

    title: str
    body: str
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """The content of a report. Texts are plain and escaped here; the bodies of sections are HTML."""

    kind: str
    title: str
    lead: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    footer: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, a small one under it, and classes of the style sheet ("void" strikes through)."""

    text: str
    small: str = ""
    style: str = ""
    title: str = field(default="")


def render(page: Page) -> str:
    """The page as HTML."""
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in page.facts.items())
    warnings = "".join(f'<p class="banner">{escape(text)}</p>' for text in page.warnings)
    sections = "".join(
        f"<section><h2>{escape(section.title)}</h2>{paragraph(section.lead)}{section.body}</section>"
        for section in page.sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<header><p class="kind">{escape(page.kind)}</p><h1>{escape(page.title)}</h1>'
        f'<p class="lead">{escape(page.lead)}</p><dl class="facts">{facts}</dl></header>'
        f"{warnings}{sections}<footer>{escape(page.footer)}</footer></main></body></html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph, or nothing."""
    return f"<p>{escape(text)}</p>" if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; the first column names the rows."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(entries: Mapping[str, str]) -> str:
    """Colours and their meanings."""
    items = "".join(
        f'<span><i style="background:{colour}"></i>{escape(text)}</span>' for text, colour in entries.items()
    )
    return f'<div class="legend">{items}</div>'


def multiples(parts: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    """Small charts side by side: (title, SVG, [(word in bold, text)])."""
    blocks = []
    for title, chart, notes in parts:
        texts = "".join(f"<p><b>{escape(word)}</b> {escape(text)}</p>" for word, text in notes)
        blocks.append(f"<figure><h3>{escape(title)}</h3>{chart}{texts}</figure>")
    return f'<div class="multiples">{"".join(blocks)}</div>'


def picture(png: bytes, description: str, caption: str = "", width: int | None = None) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode()
    size = f' width="{width}"' if width else ""
    image = f'<img alt="{escape(description)}"{size} src="data:image/png;base64,{data}">'
    return f"<figure>{image}{_caption(caption)}</figure>"


def chart(svg: str, caption: str = "") -> str:
    """An SVG inside the page."""
    return f"<figure>{svg}{_caption(caption)}</figure>"


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    style = f' class="{escape(cell.style)}"' if cell.style else ""
    title = f' title="{escape(cell.title)}"' if cell.title else ""
    text = f"<s>{escape(cell.text)}</s>" if "void" in cell.style.split() else escape(cell.text)
    return f"<td{style}{title}>{text}{small}</td>"
