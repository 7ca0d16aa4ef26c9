"""The experiment behind ``mtl-ops train``: every method against single tasks and a plain sum.

Read it in this order: ``config`` (what is asked for), ``trainer`` (one training), ``experiment``
(all of them, with resume), ``timing`` (steps side by side), ``summary`` (what the table says),
``table``, ``plots`` and ``files`` (where it goes), ``command`` (the options).
"""
