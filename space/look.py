"""How the page looks: one theme for light and dark, system fonts, and the styles of our HTML."""

import gradio as gr

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Fonts of the visitor's system: nothing is fetched from elsewhere."""
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=list(FONT),
        font_mono=list(MONO),
    ).set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )


CSS = """
.gradio-container .main.fillable { max-width: 1280px !important; margin: 0 auto; }
.hero h1 { font-size: 1.9rem; margin: .4rem 0 .2rem; letter-spacing: -.02em; }
.hero p { margin: 0 0 .2rem; color: var(--body-text-color-subdued); max-width: 62em; }
.note p { font-size: .86rem; color: var(--body-text-color-subdued); margin: 0; }
.placeholder { color: var(--body-text-color-subdued); padding: 5rem 1rem; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg); }
.progress-line { padding: .4rem .2rem; }
.progress-line div { height: .5rem; border-radius: 1rem; overflow: hidden; margin-top: .4rem;
  background: var(--border-color-primary); }
.progress-line i { display: block; height: 100%; background: var(--primary-500);
  transition: width .2s; }
.verdict { list-style: none; margin: 0; padding: 0; display: grid; gap: .4rem; }
.verdict li { padding: .5rem .8rem; margin: 0; border-radius: var(--radius-md);
  background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  overflow-wrap: anywhere; }
.verdict .missing { border-style: dashed; }
.verdict span { color: var(--body-text-color-subdued); }
.verdict i, .timeline i { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  border-radius: .2em; border: 1px solid var(--body-text-color-subdued); }
.timeline { padding: 0 .6rem; }
.timeline figure { margin: 0 0 .6rem; }
.timeline figcaption { font-size: .86rem; overflow-wrap: anywhere; }
.timeline figure div { position: relative; border-bottom: 1px solid var(--body-text-color-subdued);
  border-top: 1px dashed var(--border-color-primary); }
.timeline svg { width: 100%; height: 48px; display: block; }
.timeline b { position: absolute; bottom: -6px; }
.timeline .tick { width: 1px; height: 6px; background: var(--body-text-color-subdued); }
.timeline .key { width: 11px; height: 11px; margin-left: -5px; transform: rotate(45deg);
  border: 1px solid var(--body-text-color); }
.timeline .axis { position: relative; height: 1.2rem; font-size: .76rem;
  color: var(--body-text-color-subdued); }
.timeline .axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.timeline .axis span:first-child { transform: none; }
.timeline p { font-size: .76rem; color: var(--body-text-color-subdued); margin: .2rem 0 0; }
#video { height: auto !important; }
#pictures .grid-wrap { max-height: none; overflow: visible; }
#pictures .grid-container { padding-top: 0; }
#pictures .thumbnail-item { height: auto; aspect-ratio: auto; display: flex;
  flex-direction: column; background: none; }
#pictures .thumbnail-item img { height: auto; width: 100%; }
#pictures .caption-label { position: static; max-width: none; width: 100%; white-space: pre-line;
  text-align: left; background: none; border: 0; box-shadow: none; font-size: .78rem;
  line-height: 1.4; padding: .35rem .4rem; overflow-wrap: anywhere; }
#files .label-clear-button { display: none; }  /* nothing to remove from an answer */
@media (max-width: 800px) {
  #pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
}
button:focus-visible, a:focus-visible, input:focus-visible, textarea:focus-visible {
  outline: 3px solid var(--primary-500) !important; outline-offset: 2px; }
"""
