"""Weights of nodulens' published methods; nodulens finds them here, see nodulens.methods.shipped."""
