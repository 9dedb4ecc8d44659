"""The sections of the report.

A section is a module NAME.py, whose function `fill(facts)` gives the values of the template NAME.html.j2, or
None where there is nothing to show. It may have rules of its own in NAME.css. The frame prints the title.
"""
