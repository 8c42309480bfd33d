"""Records, the store that holds Records, and the statistics computed from Records.

No torch here.
"""
