"""The experiment behind ``mtl-ops train``: every method against single tasks and a plain sum.

Read it in this order: ``config`` (what is asked for), ``trainer`` (one training), ``experiment``
(all of them, with resume), ``selection`` (which methods), ``timing`` (steps side by side),
``summary`` (what the table says), ``table`` and ``plots`` (how it looks), ``files``, ``checkpoint``
and ``events`` (where it goes), ``progress`` (how far it is), ``command``,
``given``, ``spec`` and ``options`` (what may be asked). What is trained is in :mod:`mtl_ops.examples`.
"""
