"""What takes long to make of a document and needs no page: pictures, and the explorer's JSON. A
second process makes them while this process goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rfdetr_repro.spec.side_by_side import begun, can_fork

from .blocks import Block, Drawing, Explorer


@contextmanager
def made_aside(blocks: Sequence[Block]) -> Iterator[None]:
    """Within it, a second process makes what the drawings and explorers among ``blocks`` need and
    do not have: first what the PDF sets, in the order of the blocks, then what the HTML page needs
    beyond that. Where :func:`can_fork` says no, each is made where a page needs it.
    """
    if not can_fork():
        yield
        return
    explorers = [block for block in blocks if isinstance(block, Explorer)]
    explorers = [explorer for explorer in explorers if explorer.made_json is None]
    shown = [block.static if isinstance(block, Explorer) else block for block in blocks]
    drawings = [block for block in shown if isinstance(block, Drawing) and block.made_png is None]
    works = [
        *(drawing.make_print for drawing in drawings),
        *(explorer.json for explorer in explorers),
        *(drawing.make_png for drawing in drawings),
    ]
    with begun(*works) as results:
        result = iter(results)
        for drawing in drawings:
            drawing.made_print = next(result)
        for explorer in explorers:
            explorer.made_json = next(result)
        for drawing in drawings:
            drawing.made_png = next(result)
        yield
