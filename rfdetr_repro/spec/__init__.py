"""What a user can choose, and how each choice is written down: architectures, training recipes,
protocols, campaigns, files and errors. No torch here.
"""
