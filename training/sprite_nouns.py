"""The nouns of Ref-Sprites: one emoji each, their synonyms, and which must not be confused."""

# Noun -> Unicode code point of its emoji. Single words, each drawn in all three art styles, and
# no two that look alike at 30 pixels. Order is alphabetical within a line, not meaningful.
NOUN_CODES: dict[str, str] = {
    # animals
    "bear": "1f43b", "bee": "1f41d", "butterfly": "1f98b", "camel": "1f42a", "cat": "1f408",
    "chicken": "1f414", "cow": "1f404", "crab": "1f980", "crocodile": "1f40a", "dog": "1f415",
    "dolphin": "1f42c", "duck": "1f986", "elephant": "1f418", "fish": "1f420", "fox": "1f98a",
    "frog": "1f438", "giraffe": "1f992", "goat": "1f410", "horse": "1f40e",
    "ladybug": "1f41e", "lion": "1f981", "monkey": "1f412",
    "octopus": "1f419", "owl": "1f989", "panda": "1f43c", "parrot": "1f99c", "penguin": "1f427",
    "pig": "1f416", "rabbit": "1f407", "sheep": "1f411", "snail": "1f40c", "snake": "1f40d",
    "spider": "1f577", "swan": "1f9a2", "tiger": "1f405", "turtle": "1f422",
    # people and figures
    "ghost": "1f47b", "man": "1f468", "robot": "1f916", "snowman": "26c4",
    "woman": "1f469",
    # vehicles
    "airplane": "2708", "bicycle": "1f6b2", "boat": "26f5", "bus": "1f68c", "car": "1f697",
    "helicopter": "1f681", "motorcycle": "1f3cd", "rocket": "1f680",
    "tractor": "1f69c", "train": "1f682", "truck": "1f69a",
    # food and plants
    "apple": "1f34e", "banana": "1f34c", "cactus": "1f335", "cake": "1f370", "carrot": "1f955",
    "donut": "1f369", "hamburger": "1f354",
    "mushroom": "1f344", "pear": "1f350", "pineapple": "1f34d", "pizza": "1f355",
    "pumpkin": "1f383", "rose": "1f339", "strawberry": "1f353", "sunflower": "1f33b",
    "tree": "1f333", "watermelon": "1f349",
    # things
    "balloon": "1f388", "basketball": "1f3c0",
    "book": "1f4d5", "camera": "1f4f7", "chair": "1fa91", "clock": "23f0", "crown": "1f451",
    "cup": "2615", "football": "26bd", "gift": "1f381", "guitar": "1f3b8", "hammer": "1f528",
    "house": "1f3e0", "key": "1f511", "laptop": "1f4bb",
    "shoe": "1f45f", "star": "2b50", "umbrella": "2614",
}  # fmt: skip

# Ten more that `findtrack-tiny` has never seen, for fine-tuning it to something new.
NEW_NOUN_CODES: dict[str, str] = {
    "anchor": "2693", "bell": "1f514", "bucket": "1faa3", "castle": "1f3f0", "dress": "1f457",
    "drum": "1f941", "eggplant": "1f346", "kangaroo": "1f998", "magnet": "1f9f2", "whale": "1f433",
}  # fmt: skip

# Other single words for a noun; half of the sentences about it may use them.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane",),
    "bicycle": ("bike",),
    "boat": ("sailboat",),
    "car": ("automobile",),
    "chicken": ("hen",),
    "cup": ("mug",),
    "football": ("soccerball",),
    "gift": ("present",),
    "hamburger": ("burger",),
    "motorcycle": ("motorbike",),
    "rabbit": ("bunny",),
    "shoe": ("sneaker",),
}

# Nouns whose meaning overlaps: one of a set is never a "no target" answer while another is there.
CONFUSABLE: tuple[frozenset[str], ...] = (
    frozenset({"man", "woman"}),
    frozenset({"car", "bus", "truck", "train", "tractor"}),
    frozenset({"bicycle", "motorcycle"}),
    frozenset({"basketball", "football"}),
    frozenset({"duck", "swan", "chicken", "parrot", "penguin", "owl"}),
    frozenset({"bear", "panda"}),
    frozenset({"lion", "tiger", "cat"}),
    frozenset({"fish", "dolphin", "whale"}),
    frozenset({"bee", "ladybug"}),
    frozenset({"goat", "sheep"}),
    frozenset({"rose", "sunflower"}),
    frozenset({"house", "castle"}),
)


def confusable_with(noun: str) -> frozenset[str]:
    """`noun` itself and every noun a viewer could also call by its name."""
    return frozenset({noun}).union(*(group for group in CONFUSABLE if noun in group))
