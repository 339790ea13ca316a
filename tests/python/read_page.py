"""Prints what a browser would make of an HTML page.

Usage: read_page.py FILE. The output is JSON: `problems` (elements that are not closed, or closed out of
order), `text` (what is read, with single spaces), `elements` (how often each stands there), `links` (all
that could be fetched or run), `images` (width, height and pixels of each embedded image, decoded by
Pillow, in hexadecimal), `numbers` (the values of its `data` elements).
"""

import base64
import io
import json
import sys
from collections import Counter
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "img", "br", "hr", "input", "link"}
LINKS = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
EMBEDDED = "data:image/png;base64,"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.problems, self.text = [], [], []
        self.elements = Counter()
        self.links, self.images, self.numbers = [], [], []

    def handle_starttag(self, tag, attributes):
        self.take(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.take(tag, attributes)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if "style" in self.open:
            if "url(" in data or "@import" in data:
                self.links.append(data)
        else:
            self.text.append(data)

    def take(self, tag, attributes):
        self.elements[tag] += 1
        for name, value in attributes:
            if tag == "img" and name == "src" and value.startswith(EMBEDDED):
                image = Image.open(io.BytesIO(base64.b64decode(value[len(EMBEDDED) :], validate=True)))
                pixels = image.convert("RGB").tobytes().hex()
                self.images.append([image.width, image.height, pixels])
            elif name in LINKS or name.startswith("on"):
                self.links.append(value)
            elif tag == "data" and name == "value":
                self.numbers.append(float(value))


page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
page.close()
problems = page.problems + [f"<{tag}> stays open" for tag in page.open]
found = {name: getattr(page, name) for name in ["elements", "links", "images", "numbers"]}
json.dump({"problems": problems, "text": " ".join(" ".join(page.text).split()), **found}, sys.stdout)
