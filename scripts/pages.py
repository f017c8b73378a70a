"""What scripts that write pages from capsules share: the part of a page between two marks, and writing or only comparing a page."""
import os
import sys


def between(path, begin, end, text):
    """The page at path with text between its two marks."""
    with open(path) as f:
        page = f.read()
    if begin not in page or end not in page:
        sys.exit(f"{os.path.basename(path)}: '{begin}' or '{end}' is missing")
    head, rest = page.split(begin, 1)
    return head + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1]


def publish(path, new, check, script):
    """Writes the page; with check only compares it, and ends with a sentence if it differs."""
    if check:
        with open(path) as f:
            if f.read() == new:
                return
        sys.exit(f"{os.path.relpath(path, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))} is not what the capsules say: run "
                 f"{script}")
    with open(path + ".part", "w") as f:
        f.write(new)
    os.rename(path + ".part", path)
