"""Reports of a run: a PDF and an HTML page with the same content, built from stored numbers alone
(no torch).
"""
