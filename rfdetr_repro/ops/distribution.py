"""What depends on the distribution that the operators belong to: the name of their namespace in
``torch.ops``, and their errors. ``rfdetr-ops`` has a file of its own in place of this one.
"""

from rfdetr_repro.spec.errors import InputError, LibraryNotBuilt

__all__ = ["NAMESPACE", "InputError", "LibraryNotBuilt"]

NAMESPACE = "rfdetr"
