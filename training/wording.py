"""Numbers as people read them."""


def counted(number: float, noun: str) -> str:
    """ "1 video", "2,000 videos", "3 processes", "1.5 epochs"."""
    told = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    plural = "es" if noun.endswith("s") else "s"
    return f"{told} {noun}{'' if told == '1' else plural}"


def duration(seconds: float) -> str:
    """ "42 s", "5 min" or "3 h 07 min"."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
