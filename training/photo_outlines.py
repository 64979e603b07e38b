"""The photographs of the demo clips: whose they are, an object's outline, and how it is filmed.

They ship inside scikit-image (`skimage.data`), whose documentation of each states the licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.photo_shot import Key, Shot, coverage


@dataclass(frozen=True)
class Photo:
    """A photograph with one object outlined."""

    expression: str
    picture: str  # what it is
    author: str
    licence: str
    function: str  # of `skimage.data`
    outline: str  # of the object, drawn by hand: "x,y x,y ...", as in SVG
    shot: Shot
    along: str = ""  # outline of what moves along with the object

    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB.

        Raises:
            ImportError: scikit-image is not installed.
        """
        try:
            from skimage import data
        except ImportError:
            raise ImportError("scikit-image is missing: pip install '.[train]'") from None
        return getattr(data, self.function)()

    def target(self, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) uint8 coverage of the object."""
        return coverage(_points(self.outline), shape)

    def subject(self, shape: tuple[int, int]) -> np.ndarray:
        """(h, w) uint8 coverage of the object and of what moves along."""
        target = self.target(shape)
        return np.maximum(target, coverage(_points(self.along), shape)) if self.along else target


def _points(outline: str) -> Sequence[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in outline.split()]


PHOTOS = {
    # Walks in from the left, looks around.
    "cat": Photo(
        expression="the cat",
        picture="Chelsea the cat",
        author="Stefan van der Walt",
        licence="CC0",
        function="chelsea",
        outline="""
            42,0 40,12 38,24 35,36 33,50 32,65 31,80 31,95 29,106 22,113 12,119 0,125 0,300
            287,300 292,291 300,283 309,272 314,263 317,252 318,240 317,228 316,219 323,210
            333,202 342,192 349,182 354,172 358,161 361,150 362,140 363,130 364,120 363,110
            361,100 358,88 357,78 359,70 365,62 371,52 375,43 378,33 382,23 391,13 399,0
        """,
        shot=Shot(
            camera=(
                Key(0.0, 245, 148, 262, -1),
                Key(0.5, 238, 151, 256, 1),
                Key(1.0, 234, 152, 250, -1),
            ),
            subject=(
                Key(0.00, -215, 0, 1, -3),
                Key(0.30, -130, 4, 1, 2),
                Key(0.55, -50, -3, 1, -2),
                Key(0.78, -30, 3, 1, 2.5),
                Key(1.00, -45, 0, 1, -1),
            ),
            pivot=(200, 300),
            halo=60,  # whiskers
            light=0.1,
        ),
    ),
    # Leans from side to side, the helmet in her arm.
    "woman": Photo(
        expression="the woman",
        picture="Astronaut Eileen Collins",
        author="NASA",
        licence="public domain",
        function="astronaut",
        outline="""
            231,15 238,16 246,17 253,20 260,23 266,27 272,30 279,33 285,37 290,43 294,51 297,59
            299,68 301,78 302,87 300,97 297,107 290,117 284,124 279,128 276,133 270,137 267,137
            265,148 261,154 258,161 256,168 255,174 262,177 271,184 280,192 287,199 292,206
            297,213 301,221 304,233 315,240 324,245 330,251 337,257 344,266 348,277 352,286
            355,297 358,315 361,328 361,342 364,348 352,351 340,356 330,363 320,371 312,379
            305,385 299,391 295,398 291,408 286,422 282,438 279,454 277,470 277,485 279,502
            280,512 39,512 32,501 27,487 25,470 23,452 24,438 24,425 21,412 19,400 20,390 23,380
            25,370 25,355 26,345 28,337 30,330 33,318 37,307 40,302 41,292 45,282 51,272 56,261
            62,252 70,244 80,235 90,229 100,220 106,212 111,206 114,203 115,195 113,190 116,185
            120,187 123,180 126,172 131,165 139,157 150,151 160,149 174,148 183,149 182,138
            182,132 179,131 175,128 171,121 170,118 167,115 161,109 156,100 154,88 153,74 154,68
            156,60 161,52 170,44 180,39 188,36 192,30 198,26 208,21 218,18
        """,
        along="""
            364,348 370,349 380,346 390,343 400,343 410,343 420,345 430,349 440,353 450,358
            460,365 470,374 478,384 485,396 490,409 494,424 496,440 497,450 503,456 504,461
            507,470 509,480 512,486 512,512 270,512 285,420
        """,
        shot=Shot(
            camera=(
                Key(0.0, 280, 235, 330, 3),
                Key(0.5, 242, 187, 343, -2),
                Key(1.0, 256, 208, 390, 1),
            ),
            subject=(
                Key(0.00, 10, 0, 1, 1.5),
                Key(0.35, -12, 2, 1, -2),
                Key(0.70, 9, 0, 1, 2),
                Key(1.00, -6, 0, 1, -1),
            ),
            pivot=(200, 560),
            light=0.1,
            size=(320, 400),
        ),
    ),
    # Stands still; the camera turns and draws back.
    "cup": Photo(
        expression="the cup",
        picture="Coffee cup, courtesy of Pikolo Espresso Bar",
        author="Rachel Michetti",
        licence="CC0",
        function="coffee",
        outline="""
            173,106 175,91 180,76 189,61 200,49 214,39 230,30 248,23 267,19 286,18 305,19 323,24
            342,30 358,38 374,49 388,62 398,76 405,91 408,105 408,120 406,136 402,150 397,166
            393,179 389,192 384,202 377,214 372,224 367,232 358,242 351,247 342,253 336,257
            330,264 327,269 320,272 310,277 296,282 282,284 268,283 257,281 248,288 240,296
            234,300 229,303 224,309 216,307 207,303 200,296 197,286 197,274 200,264 207,251
            213,242 218,236 208,229 198,218 191,208 186,199 181,187 177,171 175,155 173,134
            172,120
        """,
        shot=Shot(
            camera=(
                Key(0.0, 370, 230, 230, -10),
                Key(0.5, 285, 185, 280, 5),
                Key(1.0, 290, 187, 335, -4),
            ),
            light=0.15,
        ),
    ),
}
