"""The page of one model: what it shows, and what its buttons do."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import aclosing
from dataclasses import astuple
from html import escape
from pathlib import Path

from . import surroundings  # noqa: F401  # isort: skip  (before Gradio)

import gradio as gr

from .answer import Answer, answer
from .background import Step, in_background
from .example_answers import ExampleAnswers
from .intake import Options, RequestError, own_upload
from .limits import Limits
from .segmenter import Segmenter

HERE = Path(__file__).resolve().parent
STAGES = {"read": "Reading the video", "find": "Finding", "track": "Tracking", "write": "Drawing"}
EXAMPLES = (  # video, expressions
    (HERE / "examples" / "cat.mp4", "the cat"),
    (HERE / "examples" / "woman.mp4", "the woman\nthe helmet"),
    (HERE / "examples" / "cup.mp4", "the cup\nthe spoon"),
)
OPACITY = 0.45
# Not all it can, which may be above the limits; and what is left stays left.
CAMERA = gr.WebcamOptions(
    mirror=False, constraints={"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}}}
)
SHOWN = 5  # components of an answer
COLUMNS = 5  # of the gallery: a row per expression with the usual number of key frames
SCORES = (
    "Each sentence is looked for on a few frames. *confidence* is the mask's predicted IoU, "
    "*alignment* how well the masked region agrees with the text, *score* the two together; "
    "*presence*, where the model tells it, says whether the object is there at all. Of the frames "
    "above the threshold, the one with the best score is tracked: ★."
)
NOTES = {  # on some models, by name
    "findtrack-tiny": "<p>This is the smallest model that ships with FindTrack: it was trained on "
    "synthetic videos of emoji and shows how the method works, not what it can do on real footage."
    "</p>",
}
WAITING = '<div class="progress-line" aria-live="polite">Waiting for its turn</div>'
# Presses the button, as soon as that is possible, unless the answer is there already.
PRESS = """async (there) => {
  const find = document.querySelector("#find");
  while (!there && find.disabled) await new Promise(done => setTimeout(done, 20));
  if (!there) find.click();
}"""
# On a phone the answer lies below the screen.
SCROLL = """() => document.querySelector("#overlay")?.scrollIntoView({
  block: matchMedia("(max-width: 50em)").matches ? "start" : "nearest",
  behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"})"""
PLACEHOLDER = '<p class="placeholder">Masks, scores and downloads appear here.</p>'


class Page:
    """The page of one model.

    Args:
        segmenter: The model.
        limits: What an upload may be.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits):
        self.segmenter, self.limits = segmenter, limits
        self.defaults = Options(segmenter.key_frames, segmenter.threshold, 0, 0, OPACITY)
        self.examples = ExampleAnswers(EXAMPLES, self.defaults)
        self._wanted: dict[str, str] = {}  # the request that a session waits for
        self.blocks = self._build()

    async def segment(
        self,
        video: str,
        expressions: str,
        key_frames: int,
        threshold: float,
        start: float,
        end: float,
        opacity: float,
        progress=gr.Progress(),  # noqa: B008  (this is how Gradio finds it)
    ) -> AsyncIterator[tuple[str, list[str], dict]]:
        """Find what each expression names in a video and track it: one mask per frame.

        Args:
            video: The video file.
            expressions: What to look for, one object per line, as in "the dog on the left".
            key_frames: Number of frames spread over the video that are searched.
            threshold: From 0 to 1; how sure the model must be that it is there, or "not found".
            start: Second at which the part to segment starts.
            end: Second at which it ends; 0 is the end of the video.
            opacity: From 0 to 1, of the colour on the overlay's masks.

        Returns:
            The video with coloured masks; files: PNG masks (zip), COCO RLE (JSON), mattes (mp4);
            what was found: per expression yes or no, score, key frame, candidates.
        """
        options = Options(key_frames, threshold, start, end, opacity)
        work = in_background(self._answers(video, expressions, options), wanted=lambda: True)
        async with aclosing(work) as events:
            async for event in events:
                if isinstance(event, Step):
                    progress((event.done, event.total), desc=STAGES[event.stage])
                else:
                    yield event.overlay, event.files, event.result

    def ask(self, request: gr.Request):
        """The button was pressed: say so at once, whenever its turn comes."""
        ticket = self._wanted[request.session_hash] = secrets.token_hex(8)
        return ticket, *_buttons(working=True), _status(WAITING)

    def give_up(self, request: gr.Request):
        """Nobody waits for it any more, be it in the queue, at work, or over."""
        self._wanted.pop(request.session_hash, None)
        return *_buttons(working=False), _status("")

    async def show(
        self, ticket, video, expressions, key_frames, threshold, start, end, opacity,
        request: gr.Request,
    ):  # fmt: skip
        """`segment` for the page: steps on the way, then all there is to see."""
        options = Options(key_frames, threshold, start, end, opacity)
        session = request.session_hash

        def wanted() -> bool:
            return self._wanted.get(session) == ticket

        # Steps only fill the line: they touch no button, since one may come when all is over.
        work = in_background(self._answers(video, expressions, options), wanted)
        try:
            async with aclosing(work) as events:
                async for event in events:
                    if not wanted():
                        return
                    if isinstance(event, Step):
                        yield gr.skip(), gr.skip(), _progress(event), *[gr.skip()] * SHOWN
                        continue
                    for text in event.missing:
                        gr.Info(f"Not found: “{escape(text)}”. The best candidates are shown.")
                    yield *self.give_up(request), *_shown(event)
        except Exception:
            if wanted():  # or the page would take it for an error of what it waits for now
                raise
        finally:
            if wanted():
                del self._wanted[session]

    def choose(self, video, expressions, request: gr.Request):
        """An example was chosen, with the options of the start: whether its answer is kept, and
        that answer."""
        answer = self.examples.get(self.examples.match(video, expressions, self.defaults))
        shown = _shown(answer) if answer else [gr.skip()] * SHOWN
        return bool(answer), *astuple(self.defaults), *self.give_up(request), *shown

    def _answers(self, video, expressions, options: Options) -> Iterator[Step | Answer]:
        """`answer` of the request, kept if it is an example's."""
        example = self.examples.match(video, expressions, options)
        if kept := self.examples.get(example):
            yield kept
            return

        def work(folder: Path) -> Generator[Step | Answer, None, None]:
            return self._answer(video, expressions, options, folder)

        if example:
            yield from self.examples.compute(example, work)
            return
        with tempfile.TemporaryDirectory(prefix="findtrack-space-") as folder:
            yield from work(Path(folder))

    def _answer(self, video, expressions, options: Options, folder: Path):
        """`answer` in a folder, with what it refuses as a message for the page."""
        upload, results = folder / "upload", folder / "results"
        upload.mkdir()
        results.mkdir()
        try:
            yield from answer(
                own_upload(video, upload),
                expressions,
                options,
                segmenter=self.segmenter,
                limits=self.limits,
                folder=results,
            )
        except RequestError as error:
            raise gr.Error(
                escape(str(error), quote=False), title="Not possible", print_exception=False
            ) from None
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error("Something went wrong here: try again, or another video.") from error

    def _build(self) -> gr.Blocks:
        with gr.Blocks(title="FindTrack") as blocks:
            gr.HTML(_hero(self.segmenter.name), elem_classes="hero")
            with gr.Row(elem_id="top"):
                with gr.Column(scale=5, min_width=320, elem_id="request"):
                    self._request()
                    examples = gr.Column(elem_id="examples")
                with gr.Column(scale=7, min_width=320):
                    self._masks()
            self._details()
            self.shown = [self.overlay, self.verdict, self.pictures, self.times, self.files]
            with examples:
                self.choice = gr.Examples(
                    [[str(video), words] for video, words in EXAMPLES],
                    [self.video, self.text], label="Examples",
                    api_visibility="private",
                )  # fmt: skip
            self.there = gr.Checkbox(visible="hidden", label="kept")
            self._events()
            self._endpoint()
        return blocks.queue(
            max_size=self.limits.max_queue,
            default_concurrency_limit=1,
            api_open=False,  # no way past the queue
        )

    def _request(self) -> None:
        """What is asked for."""
        self.video = gr.Video(
            label="Video", sources=["upload", "webcam"], height=300, elem_id="video",
            webcam_options=CAMERA,
        )  # fmt: skip
        gr.Markdown(self.limits.describe(self.segmenter.shared_gpu), elem_classes="note")
        self.text = gr.Textbox(
            label="What to look for",
            info=f"One object per line, up to {self.limits.max_expressions}.",
            placeholder="the dog on the left\nthe red car",
            lines=2,
            max_lines=self.limits.max_expressions,
            elem_id="expressions",
        )
        with gr.Row():
            self.find = gr.Button("Find and track", variant="primary", elem_id="find")
            self.stop = gr.Button("Cancel", visible=False, elem_id="cancel")
        self.status = gr.HTML(visible=False, elem_id="status")
        self.ticket = gr.Textbox(visible="hidden", label="ticket")
        with gr.Accordion("Options", open=False, elem_id="options"):
            self.options = [  # in the order of `Options`
                gr.Slider(
                    1, self.limits.max_key_frames, self.segmenter.key_frames, step=1,
                    label="Key frames", info="How many frames are searched for the object.",
                ),
                gr.Slider(
                    0, 1, self.segmenter.threshold, step=0.01, label="Threshold",
                    info="Least presence of a frame, or score without one; below: “not found”.",
                ),
                gr.Number(0, label="Start", info="Second to start at."),
                gr.Number(0, label="End", info="Second to end at; 0 is the end."),
                gr.Slider(
                    0, 1, OPACITY, step=0.05, label="Opacity", info="Of the colour on the masks."
                ),
            ]  # fmt: skip

    def _masks(self) -> None:
        """The answer itself."""
        self.placeholder = gr.HTML(PLACEHOLDER)
        with gr.Column(visible=False, elem_id="answer") as self.answer:
            self.overlay = gr.Video(
                label="Masks", autoplay=True, loop=True, interactive=False,
                height=440, elem_id="overlay",
            )  # fmt: skip
            self.verdict = gr.HTML(elem_id="verdict")
            gr.Markdown("## Is it in the picture?")
            self.times = gr.HTML(elem_id="timeline")

    def _details(self) -> None:
        """How it was found, and the downloads."""
        with gr.Column(visible=False, elem_id="details") as self.details:
            gr.Markdown(f"## Where it was looked for\n\n{SCORES}", elem_classes="note")
            self.pictures = gr.Gallery(
                label="The frames that were searched, with masks and scores", show_label=False,
                columns=COLUMNS, object_fit="contain", height="auto", interactive=False,
                buttons=["download", "download_all", "fullscreen"], elem_id="pictures",
            )  # fmt: skip
            gr.Markdown("## Downloads")
            self.files = gr.File(
                label="PNG masks (zip), COCO RLE (JSON), mattes (mp4)", show_label=False,
                file_count="multiple", interactive=False, elem_id="files",
            )  # fmt: skip

    def _events(self) -> None:
        """What the buttons do."""
        private = {"show_progress": "hidden", "api_visibility": "private"}
        request = [self.video, self.text, *self.options]
        line = [self.find, self.stop, self.status]
        asked = self.find.click(self.ask, None, [self.ticket, *line], queue=False, **private)
        running = asked.success(
            self.show, [self.ticket, *request], [*line, *self.shown],
            concurrency_id="model", trigger_mode="multiple", api_visibility="private",
            show_progress="minimal", show_progress_on=self.status,
        )  # fmt: skip
        # Gradio's own way to cancel knows nothing of a request that is still on its way.
        for over in (self.stop.click, running.failure):
            over(self.give_up, None, line, queue=False, **private)
        self.choice.load_input_event.then(
            self.choose, [self.video, self.text],
            [self.there, *self.options, *line, *self.shown], queue=False, **private,
        ).then(None, self.there, js=PRESS)  # fmt: skip
        # Whichever way an answer comes, fresh or as a kept example.
        self.verdict.change(
            lambda: [gr.update(visible=shown) for shown in (False, True, True)],
            None, [self.placeholder, self.answer, self.details],
            queue=False, **private,
        ).then(None, js=SCROLL)  # fmt: skip

    def _endpoint(self) -> None:
        """The named endpoint `/segment`, for programs; nobody sees its button."""
        call = gr.Button("segment", visible=False)
        outputs = [
            gr.Video(label="overlay", visible=False),
            gr.File(label="files", file_count="multiple", visible=False),
            gr.JSON(label="result", visible=False),
        ]
        call.click(
            self.segment, [self.video, self.text, *self.options], outputs,
            api_name="segment", concurrency_id="model",
        )  # fmt: skip


def _hero(name: str) -> str:
    return (
        "<h1>FindTrack</h1><p>Say what to follow in a video. The object is <b>found first</b> on a "
        "few frames, then <b>tracked next</b> through all of them: one mask per frame. "
        f"Model: {escape(name)}.</p>"
    ) + NOTES.get(name, "")


def _buttons(working: bool) -> tuple[dict, dict]:
    """Of `find` and `stop`: one of them can be pressed."""
    return gr.update(interactive=not working), gr.update(visible=working)


def _status(html: str) -> dict:
    """Of the line above the answer, which takes no room when it says nothing."""
    return gr.update(value=html, visible=bool(html))


def _progress(step: Step) -> str:
    share = 100 * step.done / max(step.total, 1)
    count = f", {step.done} of {step.total}" if step.total > 1 else ""
    return (
        f'<div class="progress-line" aria-live="polite">{STAGES[step.stage]}{count}'
        f'<div role="progressbar" aria-label="{STAGES[step.stage]}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
        "</div>"
    )


def _shown(event: Answer) -> tuple:
    return event.overlay, event.verdict, event.pictures, event.timeline, event.files
