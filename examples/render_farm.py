"""A render farm: an animated GIF in which three words travel from the edges of the picture to form a sentence.

    python examples/render_farm.py                the farm, on 4 CPUs, and what a serial program would take
    python examples/render_farm.py --serial       the serial program itself

Where a word is in frame n follows from where it was in frame n - 1, so each word is a chain of tasks; frame n - 1 is
drawn beside the computation of frame n. With one unit of time for each computation and each drawing, 10 frames of 3
words take 10 x (3 + 1) = 40 units one after the other, and 10 + 1 = 11 on four CPUs. Computing and drawing take
milliseconds here, so each is drawn out to a whole unit.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont

import sparkray as ray
from sparkray.gantt import draw_gantt

WORDS = ("Data", "Value", "Consulting")
COLOURS = ("#2a78c2", "#d1495b", "#26323c")
WIDTH, HEIGHT, SIZE = 640, 200, 56
SPACE = 16  # between words
CPUS = len(WORDS) + 1


@dataclass(frozen=True)
class Place:
    """Of a word's left upper corner, and how far it goes until the next frame; in pixels."""

    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


def font() -> Any:
    return ImageFont.load_default(SIZE)


def goals() -> list[Place]:
    """Where the words stand in the end: in a row, in the middle."""
    widths = [font().getlength(word) for word in WORDS]
    x = (WIDTH - sum(widths) - SPACE * (len(WORDS) - 1)) / 2
    places = []
    for width in widths:
        places.append(Place(round(x), (HEIGHT - SIZE) // 2))
        x += width + SPACE
    return places


def beginnings() -> list[Place]:
    """Beyond the picture's edges: left, top, right."""
    left, top, right = goals()
    return [Place(-WIDTH / 2, left.y), Place(top.x, -SIZE * 1.5), Place(WIDTH, right.y)]


# ------------------------------------------------------------------ the two kinds of work
def move(before: Place, word: int, frame: int, frames: int, unit: float) -> Place:
    """Where a word is in a frame: it has the rest of the way before it, brakes, and arrives in the last one."""
    began = time.perf_counter()
    goal = goals()[word]
    share = 2.2 / (frames - frame + 1.2)  # of the way that is left
    dx, dy = (goal.x - before.x) * share, (goal.y - before.y) * share
    after = goal if frame == frames - 1 else Place(before.x + dx, before.y + dy, dx, dy)
    fill(unit, began)
    return after


def render(unit: float, *places: Place) -> bytes:
    """A frame, as PNG: the words, and behind them how they moved."""
    began = time.perf_counter()
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for word, colour, place in zip(WORDS, COLOURS, places, strict=True):
        for ghost in range(3, -1, -1):
            layer = Image.new("RGB", (WIDTH, HEIGHT), "white")
            at = place.x - place.dx * ghost / 4, place.y - place.dy * ghost / 4
            ImageDraw.Draw(layer).text(at, word, fill=colour, font=font())
            faded = Image.blend(Image.new("RGB", (WIDTH, HEIGHT), "white"), layer, 1.0 if ghost == 0 else 0.25 / ghost)
            picture = ImageChops.darker(picture, faded)
    out = io.BytesIO()
    picture.save(out, "PNG")
    fill(unit, began)
    return out.getvalue()


def fill(unit: float, began: float) -> None:
    """The rest of a unit of time."""
    time.sleep(max(0.0, began + unit - time.perf_counter()))


# ------------------------------------------------------------------ the two programs
def serial(frames: int, unit: float) -> list[bytes]:
    places = beginnings()
    pictures = []
    for frame in range(frames):
        places = [move(place, word, frame, frames, unit) for word, place in enumerate(places)]
        pictures.append(render(unit, *places))
    return pictures


def farm(frames: int, unit: float) -> list[bytes]:
    move_there, render_there = ray.remote(move), ray.remote(render)
    places: Sequence[Any] = beginnings()
    pictures = []
    for frame in range(frames):
        places = [move_there.remote(place, word, frame, frames, unit) for word, place in enumerate(places)]
        pictures.append(render_there.remote(unit, *places))
    return ray.get(pictures)


# ------------------------------------------------------------------ around them
def write_gif(pictures: Sequence[bytes], path: Path | io.BytesIO) -> None:
    images = [Image.open(io.BytesIO(picture)) for picture in pictures]
    last = 10  # the sentence is to be read
    durations = [90] * (len(images) - 1) + [90 * last]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def schedule(events: Sequence[dict[str, Any]], unit: float) -> list[str]:
    """A line for each worker: what it did in each unit of time, m for move and r for render."""
    ran = [event for event in events if event["ph"] == "X"]
    began = min(event["ts"] for event in ran)
    lines: dict[int, dict[int, str]] = {}
    for event in ran:
        lines.setdefault(event["tid"], {})[round((event["ts"] - began) / unit / 1e6)] = event["name"][0]
    units = max(map(max, lines.values())) + 1
    return [f"worker {tid:>8}  " + "".join(did.get(at, ".") for at in range(units)) for tid, did in lines.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10, metavar="N")
    parser.add_argument("--unit", type=float, default=0.25, metavar="SECONDS", help="of each computation and drawing")
    parser.add_argument("--serial", action="store_true", help="without sparkray, one thing after the other")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the pictures go")
    given = parser.parse_args()
    if given.frames < 2 or given.unit <= 0:
        parser.error("a film has two frames at least, and a unit of time is above 0")
    frames, unit = given.frames, given.unit
    gif = given.folder / "render-farm.gif"
    one_by_one, ideal = frames * (len(WORDS) + 1), frames + 1
    if given.serial:
        began = time.perf_counter()
        write_gif(serial(frames, unit), gif)
        print(f"serial: {(time.perf_counter() - began) / unit:.1f} units of time; {gif}")
        return
    with ray.init(num_cpus=CPUS):
        ray.get([ray.remote(render).options(name="warm").remote(0.5, *goals()) for _ in range(CPUS)])
        began = time.perf_counter()
        pictures = farm(frames, unit)
        took = (time.perf_counter() - began) / unit
        events = [event for event in ray.timeline() or () if event["ph"] == "M" or event["name"] in ("move", "render")]
    write_gif(pictures, gif)
    chart = given.folder / "render-farm.png"
    draw_gantt(events, str(chart), f"{frames} frames on {CPUS} CPUs")
    print("\n".join(schedule(events, unit)))
    print(f"{took:.2f} units of time; ideal {ideal}: {took / ideal:.3f}; one after the other {one_by_one}")
    print(f"{gif}, {chart}")


if __name__ == "__main__":
    main()
