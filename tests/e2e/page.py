"""A reader of our HTML pages: well-formed, and alone. Import after common."""
import html.parser
import re

from common import check, same


class Page(html.parser.HTMLParser):
    VOID = {"meta", "br", "hr", "link", "img", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.seen = [], [], []
        self.feed(text)
        self.close()
        same(self.open, [], "elements left open")

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        check(len({k for k, _ in attrs}) == len(attrs), f"attribute twice in {tag}")
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        same(self.open.pop() if self.open else None, tag, f"end of element at {self.getpos()}")

    def handle_data(self, data):
        if self.cells and ("td" in self.open or "th" in self.open) and "title" not in self.open:
            self.cells[-1] += data


def alone(text, page):
    """Nothing of a page is a script or comes from elsewhere."""
    tags = {tag for tag, _ in page.seen}
    check(text.startswith("<!DOCTYPE html>") and not tags & {"script", "link", "img"}, f"elements: {sorted(tags)}")
    check(not re.search(r"https?://|@import|url\(", text), "the page refers to something outside itself")
    check(all(not k.startswith("on") for _, attrs in page.seen for k in attrs), "scripts in attributes")
