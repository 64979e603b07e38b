"""How the page looks: one theme for light and dark, system fonts, and the styles of our HTML."""

import gradio as gr

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Fonts of the visitor's system: nothing is fetched from elsewhere.

    Text has a contrast of 4.5 at least in both schemes; Soft's own teal 500 has 2.2 on its labels.
    """
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=list(FONT),
        font_mono=list(MONO),
    ).set(
        body_background_fill="*neutral_50",
        color_accent="*primary_600",
        block_border_width="1px",
        block_shadow="none",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*primary_800",
        block_label_background_fill_dark="*primary_700",
        block_title_text_color="*primary_800",
        input_border_width="1px",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_500",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_shadow="none",
        input_shadow_focus="none",
        input_background_fill_dark="*neutral_900",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_300",
        link_text_color_active="*primary_800",
        link_text_color_active_dark="*primary_300",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        button_border_width="0px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
    )


# Gradio writes every rule a second time, below `.contain`, and of those in @media only that one;
# it drops @container, and cannot read a comma inside of :is().
CSS = """
body { --line: var(--neutral-400); --focus: var(--primary-600); }
body.dark { --line: var(--neutral-500); --focus: var(--primary-400); }
.gradio-container .main.fillable { max-width: 1280px !important; margin: 0 auto;
  padding-inline: clamp(.75rem, 3vw, 2rem); }
.block .html-container { padding: 0; }  /* or our HTML would be indented against its neighbours */
.prose h2 { font-size: 1rem; margin: 0; }
.hero h1 { font-size: 1.9rem; margin: .4rem 0 .2rem; letter-spacing: -.02em; }
.hero p { margin: 0 0 .2rem; color: var(--body-text-color-subdued); max-width: 62em; }
.note p { font-size: .86rem; color: var(--body-text-color-subdued); margin: 0; }
.note h2 + p { margin-top: .4rem; }
.placeholder { display: grid; place-items: center; min-height: 17.6rem; margin: 0; padding: 1rem;
  color: var(--body-text-color-subdued); text-align: center;
  background: var(--block-background-fill);
  border: 1px dashed var(--line); border-radius: var(--block-radius); }
.progress-line { font-variant-numeric: tabular-nums; }
.progress-line div { height: .5rem; border-radius: 1rem; overflow: hidden; margin-top: .4rem;
  background: var(--border-color-primary); }
.progress-line i { display: block; height: 100%; background: var(--slider-color);
  transition: width .2s; }
/* Gradio's "queue: 2/3 | 4.1s" while a request waits, beside our line; it would dim that. */
#status .pending { opacity: 1; }
#status .wrap.minimal { inset: 0 0 auto auto !important; width: auto; height: auto; }
#status .progress-text { position: static; transform: none; padding: 0; background: none;
  color: var(--body-text-color-subdued); font-family: inherit; font-variant-numeric: tabular-nums; }
/* What is shown while there is work is the answer to something else. */
.gradio-container:has(#cancel) #answer { opacity: .4; }
.gradio-container:has(#cancel) #details { opacity: .4; }
.verdict { list-style: none; margin: 0; padding: 0; display: grid; gap: .4rem; }
.verdict li { padding: .5rem .8rem; margin: 0; border-radius: var(--block-radius);
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  overflow-wrap: anywhere; }
.verdict .missing { border: 1px dashed var(--line); }
.verdict span { color: var(--body-text-color-subdued); }
.verdict small { display: block; margin-top: .2rem; color: var(--body-text-color-subdued); }
.verdict i, .timeline i { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  border-radius: .2em; border: 1px solid var(--body-text-color-subdued); }
.timeline { padding: .6rem 1rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); background: var(--block-background-fill); }
.timeline figure { margin: 0 0 .9rem; }
.timeline figcaption { font-size: .86rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
.timeline figcaption span { color: var(--body-text-color-subdued); }
.timeline figure div { position: relative; border-bottom: 1px solid var(--body-text-color-subdued);
  border-top: 1px dashed var(--line); }
.timeline svg { width: 100%; height: 48px; display: block; }
.timeline .missing svg { height: 16px; }
.timeline b { position: absolute; bottom: -6px; }
.timeline .tick { width: 1px; height: 6px; background: var(--body-text-color-subdued); }
.timeline .key { width: 11px; height: 11px; margin-left: -5px; transform: rotate(45deg);
  border: 1px solid var(--body-text-color); }
.timeline .axis { position: relative; height: 1.2rem; font-size: .76rem;
  color: var(--body-text-color-subdued); }
.timeline .axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.timeline .axis span:first-child { transform: none; }
.timeline .axis .end { transform: translateX(-100%); }
.timeline p { font-size: .76rem; color: var(--body-text-color-subdued); margin: .2rem 0 0; }
#video, #overlay { height: auto !important; }
#video video { max-height: 380px; }
#overlay video { max-height: 440px; }
#overlay { scroll-margin: .75rem; }
#video .controls:focus-within, #overlay .controls:focus-within { opacity: 1; }
#video .controls .icon, #overlay .controls .icon { flex: none; align-items: center;
  width: 24px; height: 24px; }
#video .source-selection .icon { width: 28px; height: 28px;
  display: grid; place-items: center; color: var(--body-text-color-subdued); }
#video .source-selection .selected { color: var(--color-accent); }
.dark #video .source-selection .selected { color: var(--primary-400); }
.block .icon-button-wrapper button { min-width: 24px; min-height: 24px; }
#options > .label-wrap { padding-block: .6rem; margin-block: -.6rem; }
#options > .label-wrap.open { margin-bottom: 0; }
#options .tab-like-container { height: 30px; }
#options input[type=range] { height: 24px; }
#options input[type=range]::-webkit-slider-thumb { border: 2px solid var(--slider-color); }
#options input[type=range]::-moz-range-thumb { border: 2px solid var(--slider-color); }
.dark #options input[type=range] { --neutral-200: var(--neutral-600); }  /* the track's rest */
td.textbox .table { white-space: pre-line !important; }
#pictures .grid-wrap { min-height: 0; max-height: none; overflow: visible; }
#pictures .grid-container { padding-top: 0; }
#pictures .thumbnail-lg { height: 100%; aspect-ratio: auto; display: flex;
  flex-direction: column; background: none; }
#pictures .thumbnail-lg img { height: auto; width: 100%; max-height: 18rem; object-fit: contain; }
#pictures .caption-label { position: static; max-width: none; width: 100%; white-space: pre-line;
  text-align: left; background: none; border: 0; box-shadow: none; font-size: .78rem;
  line-height: 1.4; padding: .35rem .4rem; overflow-wrap: anywhere; opacity: 1 !important; }
/* One picture enlarged: in the gallery's box it would be as far down as the gallery is high. */
#pictures .preview { position: fixed; inset: 0; z-index: var(--layer-top); border-radius: 0; }
#pictures .preview .media-button { flex: 1; height: auto !important; min-height: 0;
  padding: .5rem; }
#pictures .preview .caption { white-space: pre-line; overflow: visible; max-width: 100%;
  color: var(--body-text-color); font-weight: 400; }
#pictures .preview .thumbnails { position: static; flex: none; }
#files .label-clear-button { display: none; }  /* nothing to remove from an answer */
#files .file { align-items: center; }
#files td.download { min-width: 0; width: auto; }
#files .download a { display: inline-block; padding-block: .3rem; }
footer .show-api { display: flex !important; min-height: 24px; }  /* also on a phone */
footer .divider:last-child { display: none; }
button:focus-visible, a:focus-visible, input:focus-visible, textarea:focus-visible,
[role=button]:focus-visible { scroll-margin-block: 1rem;
  outline: 3px solid var(--focus) !important; outline-offset: 2px; }
#video .controls :focus-visible, #overlay .controls :focus-visible {
  outline-color: white !important; outline-offset: 0; }
/* Inside of a box that cuts off what lies outside. */
#options .tab-like-container :focus-visible { outline-offset: -3px; }
#options > .label-wrap:focus-visible { outline-offset: -3px; }
@media (max-width: 50em) {
  /* One column: request, answer, how it was found, and the examples last. */
  #top { display: contents; }
  #request { display: contents; }
  #examples { order: 1; }
  .placeholder { min-height: 6rem; }
  #pictures .grid-container { grid-auto-rows: auto;
    grid-template-columns: repeat(auto-fill, minmax(max(8rem, 18%), 1fr)); }
}
@media (max-width: 40em) {
  .timeline .axis span:nth-child(even) { display: none; }
}
@media (prefers-reduced-motion: reduce) {
  .progress-line i { transition: none; }
}
"""

# Run once the page is there. Gradio calls a picture "Thumbnail 1 of 10", though it has a caption.
SCRIPT = """() => new MutationObserver(() => {
  for (const button of document.querySelectorAll("#pictures .thumbnail-lg")) {
    const said = button.querySelector("img")?.alt;
    if (said && button.ariaLabel !== said) button.ariaLabel = said;
  }
}).observe(document.body, {subtree: true, childList: true, attributeFilter: ["aria-label", "alt"]})
"""
