"""The documentation: pages, and what makes the ones that follow from the code."""
