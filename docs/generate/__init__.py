"""What of the site is written by a program.

Read it in this order: ``methods`` (the facts about each method, in one place), ``tables`` (what is made of them),
``fields`` (a method's picture), ``method_pages`` (a page a method), ``command_line`` (the commands and their
options), ``integrations`` (the classes for other packages), ``versions`` (the folders of the site), ``extension``
(when Sphinx calls them).

``python -m docs.generate`` writes the tables that are committed: the README's, and that of the methods' overview.
"""
