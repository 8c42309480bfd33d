"""Other detectors for the same table, built by their sizes with random weights or a user's;
``catalog`` lists them.
"""
