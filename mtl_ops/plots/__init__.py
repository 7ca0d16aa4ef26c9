"""The pictures behind ``mtl-ops plot``: what the methods do where two dimensions can show it.

Read it in this order: ``merged`` (one method at many points), ``toy`` (descents from the published
starts), ``cone`` (two gradients at an angle), ``pictures`` (how it looks), ``command`` (the
options).
"""
