"""Nouns of real things: how data sets call them, what they are kinds of, what ImageNet knows.

A noun is what `findtrack-small` may be asked for. Its rows are the classes of ImageNet-1k that show
it; the weights of a classifier for them are where its word embedding starts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

PEOPLE, ANIMALS, VEHICLES, THINGS = "people", "animals", "vehicles", "things"
GROUPS = (PEOPLE, ANIMALS, VEHICLES, THINGS)


@dataclass(frozen=True)
class Noun:
    """One noun.

    Attributes:
        name: Lower case, maybe several words.
        group: One of `GROUPS`.
        kinds: More general nouns that are true of it, too.
        rows: ImageNet-1k classes, as (first, last) ranges.
        names: What data sets call it, besides `name`.
        synonyms: Other words that sentences may use for it.
        plural: "" where it has none.
    """

    name: str
    group: str
    kinds: tuple[str, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    plural: str = ""


def _rows(text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split():
        first, _, last = part.partition("-")
        ranges.append((int(first), int(last or first)))
    return tuple(ranges)


# name | kinds | ImageNet rows | names in data sets | synonyms. Plurals are regular or in _PLURALS.
_TABLE = {
    PEOPLE: """
person||981-983||human
""",
    ANIMALS: """
animal||||creature
bird|animal|7-24 80-100 127-146||sparrow,crow,seagull,gull,robin,finch
dog|animal|151-268||puppy,hound,pup,husky,poodle,terrier,retriever,labrador,bulldog,corgi,pug,collie
cat|animal|281-285||kitten,kitty,tabby
horse|animal|339||pony,stallion,mare,foal
cow|animal|345||cattle,bull,ox,calf
sheep|animal|348-349||lamb,ram
goat|animal|350||
pig|animal|341-343||hog,boar,piglet
elephant|animal|101 385-386||
bear|animal|294-297||
zebra|animal|340||
giraffe|animal|||
camel|animal|354||
llama|animal|355||alpaca
deer|animal|||stag,reindeer
antelope|animal|351-353||gazelle,impala
buffalo|animal|346-347||bison
rhino|animal|||rhinoceros
hippo|animal|344||hippopotamus
kangaroo|animal|104||wallaby
koala|animal|105||
panda|animal|388||
red panda|animal|387||
monkey|animal|370-382||baboon
ape|animal|365-369||gorilla,chimpanzee,orangutan
lion|animal|291||
tiger|animal|292||
leopard|animal|288-290||jaguar
cheetah|animal|293||
cougar|animal|286||puma
lynx|animal|287||
wolf|animal|269-275||coyote
fox|animal|277-280||
hyena|animal|276||
rabbit|animal|330-332||bunny,hare
squirrel|animal|335||
hamster|animal|333 338||guinea pig
mouse|animal|||rat
beaver|animal|337||
otter|animal|360||
hedgehog|animal|334||porcupine
sloth|animal|364||
seal|animal|150||sea lion
whale|animal|147-148||orca
dolphin|animal|||
shark|animal|2-4||
fish|animal|0-1 389-397||goldfish
turtle|animal|33-37||tortoise
crocodile|animal|49-50||alligator
lizard|animal|38-48||iguana,gecko
snake|animal|52-68||
frog|animal|30-32||toad
snail|animal|113||slug
spider|animal|72-77||tarantula
lobster|animal|122-124||crab
bee|animal|309||wasp
butterfly|animal|321-326||
dragonfly|animal|319-320||
chicken|bird,animal|7-8||hen,rooster
duck|bird,animal|97-98||
goose|bird,animal|99||
swan|bird,animal|100||
eagle|bird,animal|22||hawk,falcon
owl|bird,animal|24||
parrot|bird,animal|87-90||macaw
pigeon|bird,animal|||dove
turkey|bird,animal|83||
penguin|bird,animal|145||
ostrich|bird,animal|9||
emu|bird,animal|||
flamingo|bird,animal|130||
heron|bird,animal|131-134||egret
stork|bird,animal|127-128||
pelican|bird,animal|144||
peacock|bird,animal|84||
vulture|bird,animal|23||
""",
    VEHICLES: """
vehicle||||
car|vehicle|407 436 468 511 609 627 656 661 717 751 817||automobile,sedan,taxi,jeep,suv,van,minivan
race car|car,vehicle|751||racing car
truck|vehicle|555 569 675 717 864 867||lorry,pickup
bus|vehicle|654 779 874||coach,minibus
train|vehicle|466 547 705 820 829||locomotive,tram
motorcycle|vehicle|665 670||motorbike,moped
scooter|vehicle|670||
bicycle|vehicle|444 671||bike,cycle,mountain bike
airplane|vehicle|404 726 895 908||plane,aeroplane,jet,aircraft
helicopter|vehicle|||chopper
boat|vehicle|472 484 554 576 625 814 871 914||canoe,sailboat,kayak,yacht
ship|vehicle|403 510 628 724 780||
ambulance|vehicle|407||
tractor|vehicle|595 856 866||
go-kart|vehicle|573||kart
golf cart|vehicle|575||
snowmobile|vehicle|802||
forklift|vehicle|561||
cart|vehicle|603 690||wagon,carriage
tricycle|vehicle|870||
unicycle|vehicle|880||
wheelchair||||
airship|vehicle|405||blimp
balloon||417||
sled||450 537||sleigh
parachute||701||
""",
    THINGS: """
ball||429-430 522 574 722 768 805 852 890|sports ball|football,basketball,soccer ball
bottle||440 720 737 898 907||
cup||504 968||mug
glass||441 572|wine glass|wineglass
bowl||659 809||
plate||923||dish
fork||||
knife||499||
spoon||910||
chair||559 765||armchair,seat
couch||831|sofa|
bench||703||
bed||564||
table||532|dining table|
desk||526||
lamp||846||
clock||409 530 892||
vase||883||
flower||985-986||
plant|||potted plant|
flower pot||738||
tv||851|television|
monitor||664||screen
laptop||620||notebook
computer||527||
keyboard||508||
phone||487 528 707|cell phone|cellphone,smartphone,telephone
remote||761||remote control
camera||732 759||
book||921||
box||478||carton
teddy bear||850||teddy,toy
umbrella||879||parasol
backpack||414||rucksack
bag||636 748|handbag,purse|
suitcase||||luggage
hat||515 808||cap
helmet||518 560||
shoe||770 630 514|shoes,sneakers,heels,flats,pumps,boots,sandals,loafers,wedges|sneaker,boot
sock||806|socks,stockings|
glove||658|gloves|
shirt||610|t-shirt,blouse,top|
sweater||841|jumper,sweatshirt,hoodie,cardigan|pullover
jacket||869|blazer,coat|
dress||578|romper|gown
skirt||655 689||
shorts||842||
pants||608|trousers,jeans,leggings,tights|
suit||834||
tie||906||necktie
scarf||||
belt||||
sunglasses||836-837|glasses|
watch||531||wristwatch
skateboard||||
surfboard||||
snowboard||||
skis||795|ski|
kite||||
frisbee||||
racket||752|tennis racket|
baseball bat||||bat
baseball glove||||mitt
roller skate||||
dumbbell||422 543||barbell
guitar||402 546||
violin||889||
drum||541 822||
microphone||650||
headphones||||
speaker||632||loudspeaker
radio||754||
printer||742||
microwave||651||
oven||827||stove
toaster||859||
refrigerator||760||fridge
sink||896||
toilet||861||
bathtub||435 876||
fan||545||
hair drier||589||hairdryer
toothbrush||||
scissors||||
hammer||587||
shovel||792||spade
broom||462||
vacuum cleaner||882||vacuum
lawn mower||621||
bucket||463||pail
basket||790||
trash can||412||garbage can
shopping cart||791||
teapot||849||kettle
pot||521 909||pan
pillow||721||cushion
candle||470||
fountain||562||
house||||building
tent||672||
mailbox||637||
sign||919|stop sign|
traffic light||920||stoplight
fire hydrant||||hydrant
parking meter||704||
mask||643||
apple||948||
orange||950||
banana||954||
strawberry||949||
pineapple||953||
pumpkin||607||
carrot||||
broccoli||937||
bread||930-931||
sandwich||||
hamburger||933||burger
hot dog||934||
pizza||963||
cake||||
donut||||doughnut
ice cream||928-929||
""",
}
_PLURALS = {
    "person": "people", "sheep": "sheep", "fish": "fish", "deer": "deer", "goose": "geese",
    "mouse": "mice", "wolf": "wolves", "knife": "knives", "skis": "", "scissors": "",
    "shorts": "", "pants": "", "sunglasses": "", "headphones": "", "buffalo": "buffaloes",
    "child": "children", "bread": "", "broccoli": "", "ox": "oxen", "calf": "calves",
    "lynx": "lynxes",
}  # fmt: skip
# Sentences about people may say these where nothing tells which is right.
MEN, WOMEN = ("man", "guy", "boy"), ("woman", "lady", "girl")
ROLES = ("rider", "player", "child", "dancer", "surfer", "skateboarder", "athlete", "figure")
# What people are called besides -> the word that is learnt.
CALLED = {
    "man": ("gentleman", "male", "dude", "father", "grandfather", "husband", "fellow", "bloke"),
    "woman": ("female", "mother", "grandmother", "wife", "madam"),
    "child": ("kid", "toddler", "baby", "infant"),
    "rider": ("cyclist", "biker", "motorcyclist", "bicyclist", "jockey"),
    "athlete": ("runner", "skater", "skier", "snowboarder", "swimmer", "climber", "gymnast"),
    "player": ("footballer", "goalkeeper", "batter", "pitcher", "catcher"),
    "person": (
        "pedestrian", "adult", "someone", "somebody", "policeman", "policewoman", "fireman",
        "worker", "soldier", "farmer", "waiter", "driver", "hiker", "walker", "tourist",
        "passenger", "juggler", "clown", "singer", "actor", "teacher", "doctor", "chef", "cook",
    ),
}  # fmt: skip
# Nouns whose meaning overlaps without one being a kind of the other: where one is, the other is no
# sure "absent".
_OVERLAPPING = (
    {"car", "truck", "bus", "ambulance", "race car", "go-kart", "golf cart"},
    {"boat", "ship"}, {"motorcycle", "scooter"}, {"motorcycle", "bicycle", "tricycle", "unicycle"},
    {"cow", "buffalo"}, {"sheep", "goat"}, {"deer", "antelope", "goat"}, {"wolf", "dog", "fox"},
    {"lion", "cougar"}, {"leopard", "cheetah", "tiger", "lynx"}, {"monkey", "ape"},
    {"swan", "goose", "duck"}, {"heron", "stork"}, {"ostrich", "emu"}, {"eagle", "vulture"},
    {"turkey", "chicken", "peacock"}, {"bear", "panda"}, {"panda", "red panda"},
    {"mouse", "hamster", "squirrel"}, {"whale", "dolphin", "shark", "fish", "seal"},
    {"otter", "beaver", "seal"}, {"rhino", "hippo", "elephant"}, {"kangaroo", "rabbit"},
    {"crocodile", "lizard"}, {"airplane", "helicopter"}, {"llama", "camel", "sheep"},
    {"cup", "glass", "bowl", "bottle", "vase", "pot", "teapot", "plate"},
    {"chair", "couch", "bench", "bed"}, {"table", "desk"}, {"tv", "monitor", "laptop", "computer"},
    {"keyboard", "laptop", "computer"}, {"plant", "flower", "flower pot", "vase"},
    {"bag", "backpack", "suitcase", "box", "basket"}, {"hat", "helmet"},
    {"shirt", "sweater", "jacket", "dress", "suit"}, {"pants", "shorts", "skirt", "sock"},
    {"phone", "remote", "camera", "radio"}, {"oven", "microwave", "toaster"},
    {"skateboard", "surfboard", "snowboard", "skis"}, {"cart", "shopping cart", "tricycle"},
    {"sandwich", "hamburger", "hot dog", "bread"}, {"cake", "donut", "bread"},
    {"sign", "traffic light", "parking meter"}, {"sink", "bathtub", "toilet"},
    {"apple", "orange"}, {"balloon", "ball"}, {"balloon", "airship"}, {"lamp", "candle"},
    {"wheelchair", "chair"}, {"teddy bear", "bear"}, {"mask", "helmet"}, {"lobster", "spider"},
    {"bee", "dragonfly", "butterfly"}, {"racket", "guitar", "violin"},
    {"person", "suit"}, {"truck", "tractor", "forklift"}, {"train", "bus"}, {"pigeon", "parrot"},
)  # fmt: skip


@cache
def nouns() -> dict[str, Noun]:
    """All nouns by name."""
    table = {}
    for group, text in _TABLE.items():
        for line in text.strip().splitlines():
            name, kinds, rows, names, synonyms = (part.strip() for part in line.split("|"))
            several = [tuple(p for p in t.split(",") if p) for t in (kinds, names, synonyms)]
            table[name] = Noun(
                name, group, several[0], _rows(rows), several[1], several[2], plural(name)
            )
    return table


@cache
def canonical() -> dict[str, str]:
    """What data sets call things -> our noun."""
    return {other: noun.name for noun in nouns().values() for other in (noun.name, *noun.names)}


def plural(name: str) -> str:
    """Of a noun or a synonym; "" where it has none."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith("man"):
        return name[:-2] + "en"
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


@cache
def _kin() -> dict[str, frozenset[str]]:
    kin = {name: {name, *noun.kinds} for name, noun in nouns().items()}
    for name, noun in nouns().items():
        for kind in noun.kinds:
            kin[kind].add(name)
    for group in _OVERLAPPING:
        for name in group:
            kin[name] |= group
    return {name: frozenset(others) for name, others in kin.items()}


def confusable(name: str) -> frozenset[str]:
    """Nouns that may be true of a thing called `name`: itself, its kinds, what overlaps."""
    return _kin()[name]


def true_of(name: str) -> tuple[str, ...]:
    """Nouns that certainly are true of a thing called `name`: itself and its kinds."""
    return (name, *nouns()[name].kinds)


def classes(name: str) -> list[int]:
    """ImageNet-1k classes that show a noun; of a kind without rows, those of its members."""
    noun = nouns()[name]
    ranges: Iterable = noun.rows or [
        r for other in nouns().values() if name in other.kinds for r in other.rows
    ]
    return sorted({i for first, last in ranges for i in range(first, last + 1)})
