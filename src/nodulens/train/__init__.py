"""Training of the networks that ship, from public material. Needs ``pip install 'nodulens[train]'``."""
