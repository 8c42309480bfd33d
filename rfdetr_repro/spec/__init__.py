"""What can be chosen and how it is written down: architectures, recipes, protocols, campaigns,
files, errors. No torch here.
"""
