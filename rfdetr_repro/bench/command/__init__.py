"""The ``bench`` command: arguments, rows, printing."""
