"""The Python interface: :class:`RFDETR`, and upstream's class names."""

from .rfdetr import RFDETR

__all__ = ["RFDETR"]
